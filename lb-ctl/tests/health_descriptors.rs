//! Checks leave no file descriptor behind. A process of its own: descriptors are counted for the whole of it.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{net::Ipv4Addr, time::Duration};

use lb_ctl::{
    health::run_once,
    model::{
        check::DicomCheck,
        config::{Check, CheckKind},
        health::{RipId, Target},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
};

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn two_hundred_checks_of_every_outcome_leave_no_descriptor() {
    // Never accepts: passes `connect`, hangs `dicom-echo`. What hangs stays in the kernel's queue, not with us.
    let hung = TcpSocket::new_v4().unwrap();
    hung.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let hung = hung.listen(1024).unwrap();
    let garbage = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let addrs = [hung.local_addr().unwrap(), garbage.local_addr().unwrap(), closed];
    let speaking = tokio::spawn(async move {
        while let Ok((mut stream, _)) = garbage.accept().await {
            let mut request = [0; 64];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(b"not DICOM").await;
        }
    });
    let kinds = [CheckKind::Connect, CheckKind::DicomEcho(DicomCheck::new("LOADBALANCER", "LB-SCP"))];
    let before = open_descriptors();
    for n in 0..200 {
        let target = Target::new(
            RipId { vip: "PACS".to_owned(), rip: "A".to_owned() },
            addrs[n % addrs.len()],
            Check {
                kind: kinds[n % kinds.len()].clone(),
                interval: Duration::from_secs(1),
                timeout: Duration::from_millis(50),
                rise: 1,
                fall: 1,
                ..Check::default()
            },
        );
        run_once(&target).await;
    }
    let after = open_descriptors();
    speaking.abort();
    // The one more is the last connection that the server above may still hold.
    assert!(after <= before + 1, "{before} descriptors before, {after} after");
}
