//! How many images a device takes at a time.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;

use crate::device::is_out_of_memory;

/// A number of images that is halved when the device's memory runs out.
pub struct Batches {
    images: AtomicUsize,
}

impl Batches {
    /// Of `images` at the most.
    pub fn of(images: usize) -> Self {
        Batches { images: images.into() }
    }

    /// How many images are encoded at a time by now.
    pub fn images(&self) -> usize {
        self.images.load(Ordering::Relaxed)
    }

    /// What `encode` makes of `pixels`, `image` bytes each, one batch after another. Where memory runs out
    /// it tries again once it has called `wait`, since another may have held it, and only then with
    /// half as many.
    pub fn encode(
        &self,
        pixels: &[u8],
        image: usize,
        wait: impl Fn(),
        encode: impl Fn(&[u8]) -> Result<Vec<f32>>,
    ) -> Result<Vec<f32>> {
        let (mut embeddings, mut rest, mut has_waited) = (Vec::new(), pixels, false);
        while !rest.is_empty() {
            let images = self.images();
            let (batch, others) = rest.split_at(rest.len().min(images * image));
            match encode(batch) {
                Ok(found) => {
                    embeddings.extend(found);
                    (rest, has_waited) = (others, false);
                }
                Err(error) if is_out_of_memory(&error) && !has_waited => {
                    wait();
                    has_waited = true;
                }
                Err(error) if is_out_of_memory(&error) && images > 1 => {
                    self.images.fetch_min(images / 2, Ordering::Relaxed);
                    has_waited = false;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(embeddings)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use anyhow::bail;

    use super::*;

    /// Of a device that has room for `room` images: an image's embedding is its first byte.
    fn encode_in(batches: &Batches, room: usize, seen: &RefCell<Vec<usize>>) -> Result<Vec<f32>> {
        let pixels: Vec<u8> = (0..10).flat_map(|i| [i; 3]).collect();
        let waited = Cell::new(true);
        batches.encode(
            &pixels,
            3,
            || waited.set(true),
            |batch| {
                // another holds all memory now and then, until it was waited for
                if batch[0] == 8 && !waited.get() {
                    bail!("CUBLAS_STATUS_ALLOC_FAILED");
                }
                waited.set(false);
                seen.borrow_mut().push(batch.len() / 3);
                if batch.len() / 3 > room {
                    bail!("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")");
                }
                Ok(batch.chunks(3).map(|image| image[0].into()).collect())
            },
        )
    }

    #[test]
    fn batches_are_halved_until_they_have_room_and_stay_so() {
        let (batches, seen) = (Batches::of(10), RefCell::default());
        let expected: Vec<f32> = (0..10).map(|i| i as f32).collect();
        assert_eq!(encode_in(&batches, 3, &seen).unwrap(), expected);
        assert_eq!(seen.take(), [10, 10, 5, 5, 2, 2, 2, 2, 2]);
        assert_eq!((batches.images(), encode_in(&batches, 3, &seen).unwrap()), (2, expected));
        assert_eq!(seen.take(), [2; 5]);
    }

    #[test]
    fn no_room_for_one_is_an_error_and_so_is_another_failure() {
        let seen = RefCell::default();
        let error = encode_in(&Batches::of(4), 0, &seen).unwrap_err();
        assert!(is_out_of_memory(&error), "{error:#}");
        assert_eq!(seen.take(), [4, 4, 2, 2, 1, 1]);
        let failed = Batches::of(4).encode(&[0; 6], 3, || unreachable!(), |_| bail!("lost")).unwrap_err();
        assert_eq!(failed.to_string(), "lost");
    }
}
