//! The one door to the bytes of a frame: bounds-checked references to headers.
#![allow(unsafe_code, reason = "this file turns packet pointers into references; no other does")]

use core::marker::PhantomData;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A view of a frame's linear part, from some header to its end.
///
/// Every access compares against the end first, in the form that the verifier recognises; a header type has
/// alignment 1 and is valid for any bytes, so a reference to it needs nothing else.
pub struct Packet<'a> {
    start: usize,
    end: usize,
    frame: PhantomData<&'a mut [u8]>,
}

impl<'a> Packet<'a> {
    /// A view of a frame in kernel memory.
    ///
    /// # Safety
    ///
    /// `start..end` are the `data` and `data_end` of an XDP context whose packet is neither resized nor viewed
    /// by anything else while the view lives.
    #[inline(always)]
    #[must_use]
    pub const unsafe fn from_raw(start: usize, end: usize) -> Self {
        Self { start, end, frame: PhantomData }
    }

    /// A view of bytes on the host.
    #[must_use]
    pub fn from_slice(frame: &'a mut [u8]) -> Self {
        let range = frame.as_mut_ptr_range();
        Self {
            start: range.start.expose_provenance(),
            end: range.end.expose_provenance(),
            frame: PhantomData,
        }
    }

    /// The header at `offset`, or `None` when the frame ends before it does.
    #[inline(always)]
    #[must_use]
    pub const fn get<T: FromBytes + Immutable + KnownLayout + Unaligned>(&self, offset: usize) -> Option<&T> {
        let at = self.start + offset;
        if at + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: the bytes are inside the frame (compared above), `T` accepts any bytes at any alignment, and
        // the borrow of `self` keeps mutable references away.
        Some(unsafe { &*core::ptr::with_exposed_provenance::<T>(at) })
    }

    /// The header at `offset` for writing, or `None` when the frame ends before it does.
    #[inline(always)]
    #[must_use]
    pub fn get_mut<T: FromBytes + IntoBytes + KnownLayout + Unaligned>(
        &mut self,
        offset: usize,
    ) -> Option<&mut T> {
        let at = self.start + offset;
        if at + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: as in `get`; the mutable borrow of `self` keeps every other reference away.
        Some(unsafe { &mut *core::ptr::with_exposed_provenance_mut::<T>(at) })
    }

    /// The same frame seen from `offset` on. Later offsets then stay constants, which the verifier and the
    /// JIT both like better than a sum.
    #[inline(always)]
    #[must_use]
    pub const fn skip(&self, offset: usize) -> Packet<'_> {
        Packet { start: self.start + offset, end: self.end, frame: PhantomData }
    }
}

/// The same offset, which the compiler takes for any. It would leave out a comparison with the frame's end that follows
/// from another one, and the verifier, which does not see that it follows, would refuse the access.
#[inline(always)]
#[must_use]
pub const fn anew(offset: usize) -> usize {
    // The mask gives back to the verifier what it knew of the offset.
    core::hint::black_box(offset) & 0xfff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_does_not_fit_is_not_given() {
        let mut bytes = [1, 2, 3, 4, 5, 6];
        let mut packet = Packet::from_slice(&mut bytes);
        assert_eq!(packet.get::<[u8; 6]>(0), Some(&[1, 2, 3, 4, 5, 6]));
        assert_eq!(packet.get::<[u8; 4]>(2), Some(&[3, 4, 5, 6]));
        assert_eq!(packet.get::<[u8; 4]>(3), None);
        assert_eq!(packet.get_mut::<[u8; 1]>(6), None);
        assert_eq!(packet.skip(4).get::<[u8; 2]>(0), Some(&[5, 6]));
        assert_eq!(packet.skip(4).get::<[u8; 2]>(1), None);
        packet.get_mut::<[u8; 2]>(4).unwrap()[1] = 9;
        assert_eq!(bytes, [1, 2, 3, 4, 5, 9]);
    }
}
