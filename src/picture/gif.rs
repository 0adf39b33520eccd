//! The first frame of a GIF, as Pillow has it.

use std::{borrow::Cow, ops::Range};

use anyhow::{Result, bail};
use image::{ImageFormat, Rgb, RgbImage};

use super::by_library;

/// The first frame's pixels, and around it its colour.
pub fn decode(encoded: &[u8]) -> Result<RgbImage> {
    let Some(frame) = first_frame(encoded) else { return by_library(encoded, ImageFormat::Gif, false) };
    let Frame { columns, rows, around } = &frame;
    let mut pixels = by_library(&frame.inside(encoded)?, ImageFormat::Gif, false)?;
    // the decoder leaves black around a frame that is smaller than the picture
    for (x, y, pixel) in pixels.enumerate_pixels_mut() {
        if !(columns.contains(&x) && rows.contains(&y)) {
            *pixel = *around;
        }
    }
    Ok(pixels)
}

/// Where a GIF's first frame lies in the picture.
struct Frame {
    columns: Range<u32>,
    rows: Range<u32>,
    /// The colour that Pillow has around it: the transparent one of the frame's palette, or the
    /// first.
    around: Rgb<u8>,
}

impl Frame {
    /// The GIF whose picture is as large as its header says, or larger where the frame is, as
    /// Pillow has it: the decoder would cut the frame.
    fn inside<'a>(&self, encoded: &'a [u8]) -> Result<Cow<'a, [u8]>> {
        let mut encoded = Cow::Borrowed(encoded);
        for (at, end) in [(6, self.columns.end), (8, self.rows.end)] {
            if end > u32::from(u16::from_le_bytes([encoded[at], encoded[at + 1]])) {
                let Ok(end) = u16::try_from(end) else {
                    bail!("the first frame of the GIF ends at pixel {end}, beyond {}", u16::MAX);
                };
                encoded.to_mut()[at..at + 2].copy_from_slice(&end.to_le_bytes());
            }
        }
        Ok(encoded)
    }
}

fn first_frame(encoded: &[u8]) -> Option<Frame> {
    const GRAPHIC_CONTROL: u8 = 0xf9;
    let number = |at: usize| Some(u32::from(u16::from_le_bytes(encoded.get(at..at + 2)?.try_into().ok()?)));
    // a palette's place, by the byte of flags that says whether there is one
    let palette = |flags: u8, at: usize| (flags & 0x80 != 0).then(|| at..at + (6 << (flags & 7)));
    let mut colours = palette(*encoded.get(10)?, 13);
    let mut at = colours.as_ref().map_or(13, |palette| palette.end);
    let mut index = 0;
    loop {
        match *encoded.get(at)? {
            0x21 => {
                if encoded.get(at + 1) == Some(&GRAPHIC_CONTROL) && encoded.get(at + 3)? & 1 != 0 {
                    index = usize::from(*encoded.get(at + 6)?);
                }
                at += 2;
                while *encoded.get(at)? != 0 {
                    at += 1 + usize::from(encoded[at]);
                }
                at += 1;
            }
            0x2c => {
                let (x, y, w, h) = (number(at + 1)?, number(at + 3)?, number(at + 5)?, number(at + 7)?);
                colours = palette(*encoded.get(at + 9)?, at + 10).or(colours);
                let colour = encoded.get(colours?)?.get(3 * index..3 * index + 3)?;
                let around = Rgb(colour.try_into().ok()?);
                return Some(Frame { columns: x..x + w, rows: y..y + h, around });
            }
            _ => return None,
        }
    }
}
