//! Encoded pictures: what a file is by its first bytes or its name, and its pixels as Pillow would
//! give them.

mod bmp;
mod gif;
mod ico;
mod jpeg;
mod levels;
mod png;
mod tiff;

use std::{io::Cursor, panic::catch_unwind, path::Path};

use anyhow::{Result, bail, ensure};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};

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
        _ if is(&[0, 0, 1, 0]) && first.get(5) == Some(&0) && first.get(9) == Some(&0) => ("ICO", ImageFormat::Ico),
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
        _ if is(b"Pf\n") || is(b"PF\n") => "PFM",
        _ if (is(b"<svg") || is(b"<?xml")) && holds(b"<svg") => "SVG",
        _ => return None,
    })
}

/// An encoded picture's pixels: 8 bits, RGB, without transparency; of an animation the first frame.
/// `exif` turns it as its EXIF orientation says. The content decides what it is, not a name.
pub fn decode(encoded: &[u8], exif: bool) -> Result<RgbImage> {
    let Some((name, format)) = readable(encoded) else {
        match format_of(&encoded[..encoded.len().min(FIRST_BYTES)]) {
            _ if encoded.is_empty() => bail!("the file is empty"),
            Some(name) => bail!("{name} is not read: convert it to PNG or JPEG"),
            None => bail!("by its first bytes it is no picture: expected JPEG, PNG, WebP, GIF, BMP, TIFF, PNM or ICO"),
        }
    };
    // a fault of a decoder costs one picture
    let decoded = catch_unwind(|| match format {
        ImageFormat::Tiff => tiff::decode(encoded),
        ImageFormat::Bmp => bmp::decode(encoded),
        ImageFormat::Gif => gif::decode(encoded),
        ImageFormat::Ico => ico::decode(encoded),
        ImageFormat::Jpeg => jpeg::decode(encoded, exif),
        ImageFormat::Png => by_library(&png::with_end(encoded), format, exif),
        _ => by_library(encoded, format, exif),
    });
    decoded.unwrap_or_else(|_| bail!("the {name} decoder fails on it: convert it to PNG or JPEG"))
}

/// The pixels of a picture as the image library decodes it, converted as Pillow does.
fn by_library(encoded: &[u8], format: ImageFormat, exif: bool) -> Result<RgbImage> {
    let mut decoder = ImageReader::with_format(Cursor::new(encoded), format).into_decoder()?;
    require(&decoder)?;
    let orientation = decoder.orientation()?;
    let image = DynamicImage::from_decoder(decoder)?;
    let mut image = match (format, &image) {
        (ImageFormat::Png, _) if !png::is_of_grey(encoded) => levels::of_wide(image, |x| (x >> 8) as u8),
        // 16 bits of grey alone, whatever is transparent, Pillow keeps, and cuts off in the end
        (ImageFormat::Png, _) | (_, DynamicImage::ImageLuma16(_)) => levels::of_wide(image, |x| x.min(255) as u8),
        _ => image,
    };
    if exif {
        image.apply_orientation(orientation);
    }
    Ok(image.into_rgb8())
}

/// An error where a picture is empty, or larger than is decoded.
fn require(decoder: &impl ImageDecoder) -> Result<()> {
    let (width, height) = decoder.dimensions();
    require_size(width, height, decoder.total_bytes())
}

fn require_size(width: u32, height: u32, bytes: u64) -> Result<()> {
    ensure!(width > 0 && height > 0, "the picture is empty: it has {width}x{height} pixels");
    ensure!(bytes <= MAX_BYTES, "{width}x{height} pixels are more than {} MiB", MAX_BYTES >> 20);
    Ok(())
}
