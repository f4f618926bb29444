//! The promise to aya that map keys and values are plain bytes: one macro that also demands zerocopy's proof.
#![allow(unsafe_code, reason = "aya::Pod is an unsafe trait; the macro checks its conditions")]

use crate::{backend, counter, flow, fragment, load, persist, service, settings};

macro_rules! pod {
    ($($ty:ty),+ $(,)?) => {$(
        // SAFETY: `IntoBytes + FromBytes` (proved by zerocopy's derive, demanded below) say that the type has no
        // padding and that every bit pattern is a value of it; it is `Copy` and holds no pointer.
        unsafe impl aya::Pod for $ty {}
        const _: () = {
            const fn proof<T: zerocopy::IntoBytes + zerocopy::FromBytes + Copy>() {}
            proof::<$ty>()
        };
    )+};
}

pod!(
    backend::Backend,
    backend::BackendInfo,
    backend::LinkRecord,
    backend::Target,
    counter::BackendTraffic,
    counter::ServiceTraffic,
    flow::Bucket4,
    flow::Bucket6,
    fragment::FragmentEntry,
    fragment::FragmentKey,
    persist::PersistEntry,
    load::Load,
    persist::PersistKey,
    persist::TwinKey,
    service::Service,
    service::ServiceInfo,
    service::ServiceKey4,
    service::ServiceKey6,
    service::ServiceRef,
    service::Sources,
    service::Table,
    settings::Settings,
);
