//! A value that blocks, used from async code by one owner at a time.
#![forbid(unsafe_code)]

/// Lends its value to a thread that may block, and waits for it to come back.
#[derive(Debug)]
pub(crate) struct Lent<T> {
    /// Absent while a thread has it.
    value: Option<T>,
}

impl<T: Send + 'static> Lent<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self { value: Some(value) }
    }

    /// Runs `work` where blocking is allowed. A panic in it goes on in the caller.
    ///
    /// Not cancel safe: a call that is dropped half-way takes the value with it, and every later call waits for
    /// ever. The owners await each call to its end.
    pub(crate) async fn with<R: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> R {
        let Some(mut value) = self.value.take() else {
            return std::future::pending().await;
        };
        let call = tokio::task::spawn_blocking(move || {
            let result = work(&mut value);
            (value, result)
        });
        match call.await {
            Ok((value, result)) => {
                self.value = Some(value);
                result
            }
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}
