//! Encoded pictures: what a file is by its first bytes or its name, and its pixels as Pillow would
//! give them.

use std::{borrow::Cow, io::Cursor, ops::Range, path::Path};

use anyhow::{Result, bail};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Rgb, RgbImage};

/// Largest picture that is decoded or resized, in bytes: a header may claim anything.
pub(crate) const MAX_BYTES: u64 = 512 << 20;

/// As many of a file's first bytes as [`format_of`] looks at.
pub(crate) const FIRST_BYTES: usize = 512;

/// Extensions of pictures, of formats that are read and of others.
const EXTENSIONS: [&str; 41] = [
    "apng", "arw", "avif", "bmp", "cr2", "cr3", "dds", "dib", "dng", "exr", "gif", "hdr", "heic", "heif", "ico", "j2k",
    "jfif", "jp2", "jpe", "jpeg", "jpg", "jxl", "nef", "orf", "pbm", "pcx", "pgm", "png", "pnm", "ppm", "psd", "qoi",
    "raf", "raw", "rw2", "svg", "tga", "tif", "tiff", "webp", "xcf",
];

/// Whether a file's name says that it is a picture.
pub(crate) fn has_extension(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    EXTENSIONS.contains(&extension.as_str())
}

/// The format of a picture by its first bytes, in words; none where they are no picture's.
pub(crate) fn format_of(first: &[u8]) -> Option<&'static str> {
    readable(first).map(|(name, _)| name).or_else(|| other(first))
}

/// The formats that are read.
fn readable(first: &[u8]) -> Option<(&'static str, ImageFormat)> {
    let is = |magic: &[u8]| first.starts_with(magic);
    Some(match () {
        _ if is(b"\xff\xd8\xff") => ("JPEG", ImageFormat::Jpeg),
        _ if is(b"\x89PNG\r\n\x1a\n") => ("PNG", ImageFormat::Png),
        _ if is(b"RIFF") && first.get(8..12) == Some(b"WEBP") => ("WebP", ImageFormat::WebP),
        _ if is(b"GIF87a") || is(b"GIF89a") => ("GIF", ImageFormat::Gif),
        _ if is(b"II*\0") || is(b"MM\0*") || is(b"II+\0\x08\0") || is(b"MM\0+\0\x08") => ("TIFF", ImageFormat::Tiff),
        // two letters alone could be a text's: the size of the second header, too
        _ if is(b"BM") && matches!(first.get(14..18), Some([12 | 16 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0])) => {
            ("BMP", ImageFormat::Bmp)
        }
        _ if matches!(first, [b'P', b'1'..=b'6', b' ' | b'\n' | b'\r' | b'\t', b'0'..=b'9' | b'#', ..])
            || is(b"P7\n") =>
        {
            ("PNM", ImageFormat::Pnm)
        }
        _ => return None,
    })
}

/// The formats that are known, but not read.
fn other(first: &[u8]) -> Option<&'static str> {
    let is = |magic: &[u8]| first.starts_with(magic);
    let holds = |part: &[u8]| first.windows(part.len()).any(|window| window == part);
    Some(match first.get(4..12) {
        Some(b"ftypavif" | b"ftypavis") => "AVIF",
        Some(b"ftypheic" | b"ftypheix" | b"ftypheim" | b"ftypheis" | b"ftyphevc" | b"ftypmif1" | b"ftypmsf1") => "HEIF",
        Some(b"ftypcrx ") => "Canon raw",
        Some(b"jP  \r\n\x87\n") => "JPEG 2000",
        Some(b"JXL \r\n\x87\n") => "JPEG XL",
        _ if is(b"\xff\x4f\xff\x51") => "JPEG 2000",
        _ if is(b"8BPS") => "Photoshop",
        _ if is(b"qoif") => "QOI",
        _ if is(b"DDS ") => "DDS",
        _ if is(b"gimp xcf") => "XCF",
        _ if is(b"\x76\x2f\x31\x01") => "OpenEXR",
        _ if is(b"#?RADIANCE") => "Radiance",
        _ if is(&[0, 0, 1, 0]) && first.get(5) == Some(&0) && first.get(9) == Some(&0) => "ICO",
        _ if (is(b"<svg") || is(b"<?xml")) && holds(b"<svg") => "SVG",
        _ => return None,
    })
}

/// An encoded picture's pixels: 8 bits, RGB, without transparency; of an animation the first frame.
/// `exif` turns it as its EXIF orientation says. The content decides what it is, not a name.
pub fn decode(encoded: &[u8], exif: bool) -> Result<RgbImage> {
    let Some((_, format)) = readable(encoded) else {
        match format_of(&encoded[..encoded.len().min(FIRST_BYTES)]) {
            _ if encoded.is_empty() => bail!("the file is empty"),
            Some(name) => bail!("{name} is not read: convert it to PNG or JPEG"),
            None => bail!("by its first bytes it is no picture: expected JPEG, PNG, WebP, GIF, BMP, TIFF or PNM"),
        }
    };
    if format == ImageFormat::Jpeg && jpeg_is_cut_short(encoded) {
        bail!("the JPEG is cut short: it has no end marker");
    }
    let frame = if format == ImageFormat::Gif { first_frame(encoded) } else { None };
    let encoded = match &frame {
        Some(frame) => frame.inside(encoded)?,
        None => Cow::Borrowed(encoded),
    };
    let mut decoder = ImageReader::with_format(Cursor::new(encoded), format).into_decoder()?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        bail!("the picture is empty: it has {width}x{height} pixels");
    }
    if decoder.total_bytes() > MAX_BYTES {
        bail!("{width}x{height} pixels are more than {} MiB", MAX_BYTES >> 20);
    }
    let orientation = decoder.orientation()?;
    let mut image = DynamicImage::from_decoder(decoder)?;
    if exif || format == ImageFormat::Tiff {
        // Pillow turns TIFFs in any case
        image.apply_orientation(orientation);
    }
    let mut pixels = image.into_rgb8();
    if let Some(GifFrame { columns, rows, around }) = frame {
        // the decoder leaves black around a frame that is smaller than the picture
        for (x, y, pixel) in pixels.enumerate_pixels_mut() {
            if !(columns.contains(&x) && rows.contains(&y)) {
                *pixel = around;
            }
        }
    }
    Ok(pixels)
}

/// Where a GIF's first frame lies in the picture.
struct GifFrame {
    columns: Range<u32>,
    rows: Range<u32>,
    /// The colour that Pillow has around it: the transparent one of the frame's palette, or the
    /// first.
    around: Rgb<u8>,
}

impl GifFrame {
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

fn first_frame(encoded: &[u8]) -> Option<GifFrame> {
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
                return Some(GifFrame { columns: x..x + w, rows: y..y + h, around });
            }
            _ => return None,
        }
    }
}

/// Whether a JPEG ends before its end-of-image marker. The decoder would paint the missing part
/// grey, which Pillow refuses. An embedded thumbnail has a marker of its own, so only what follows
/// the headers counts.
fn jpeg_is_cut_short(encoded: &[u8]) -> bool {
    if !encoded.starts_with(&[0xff, 0xd8]) {
        return false;
    }
    let mut at = 2;
    while let Some(&[0xff, marker, high, low]) = encoded.get(at..at + 4) {
        if marker == 0xff {
            at += 1; // fill byte
            continue;
        }
        at += 2 + usize::from(u16::from_be_bytes([high, low]));
        const START_OF_SCAN: u8 = 0xda;
        if marker == START_OF_SCAN {
            break;
        }
    }
    !encoded.get(at..).unwrap_or_default().windows(2).any(|pair| pair == [0xff, 0xd9])
}
