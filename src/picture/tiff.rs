//! TIFF as Pillow reads it: palettes, planes, tiles, and numbers of every size.

use std::{
    borrow::Cow,
    io::{Cursor, Read, Seek},
};

use anyhow::{Context, Result, bail, ensure};
use image::{DynamicImage, RgbImage, metadata::Orientation};
use tiff::{
    ColorType,
    decoder::{Decoder, DecodingResult, Limits},
    tags::Tag,
};

use super::{MAX_BYTES, levels, require_size};

const WHITE_IS_ZERO: u16 = 0;
const BLACK_IS_ZERO: u16 = 1;
const PALETTE: u16 = 3;

/// Value of the tag `ExtraSamples` where colours are multiplied by their opacity.
const ASSOCIATED: u16 = 1;

/// The first picture's pixels, turned as it says.
pub fn decode(encoded: &[u8]) -> Result<RgbImage> {
    let (encoded, is_palette) = with_indices_as_grey(encoded);
    let mut limits = Limits::default();
    limits.decoding_buffer_size = MAX_BYTES as usize;
    let mut tiff = Decoder::new(Cursor::new(encoded))?.with_limits(limits);
    let (width, height) = tiff.dimensions()?;
    let kind = tiff.colortype()?;
    let samples = usize::from(kind.num_samples());
    require_size(width, height, u64::from(width) * u64::from(height) * samples as u64)?;
    let levels = read(&mut tiff, kind, is_palette)?;
    let tag = |tiff: &mut Decoder<_>, tag| tiff.find_tag_unsigned_vec::<u16>(tag).ok().flatten().unwrap_or_default();
    let is_associated = tag(&mut tiff, Tag::ExtraSamples).first() == Some(&ASSOCIATED);
    let pixels = levels.chunks_exact(samples);
    let rgb: Vec<u8> = match kind {
        _ if is_palette => {
            let map = tiff.get_tag_u16_vec(Tag::ColorMap).context("its palette")?;
            let colours = map.len() / 3;
            let colour = |index: u8| {
                let at = |c: usize| map.get(c * colours + usize::from(index)).map_or(0, |&level| (level >> 8) as u8);
                [at(0), at(1), at(2)]
            };
            pixels.flat_map(|pixel| colour(pixel[0])).collect()
        }
        ColorType::CMYK(_) => pixels.flat_map(|p| levels::from_cmyk([p[0], p[1], p[2], p[3]])).collect(),
        ColorType::YCbCr(_) => pixels.flat_map(|p| levels::from_ycbcr([p[0], p[1], p[2]])).collect(),
        ColorType::RGBA(_) if is_associated => pixels.flat_map(|p| levels::divided([p[0], p[1], p[2]], p[3])).collect(),
        _ if samples >= 3 => pixels.flat_map(|p| [p[0], p[1], p[2]]).collect(),
        _ => pixels.flat_map(|p| [p[0]; 3]).collect(),
    };
    let turn = tag(&mut tiff, Tag::Orientation).first().and_then(|&turn| Orientation::from_exif(turn as u8));
    let mut image = DynamicImage::from(RgbImage::from_raw(width, height, rgb).context("its size")?);
    image.apply_orientation(turn.unwrap_or(Orientation::NoTransforms));
    Ok(image.into_rgb8())
}

/// The levels of a picture (H, W, samples), of 8 bits, from its strips or tiles, plane by plane.
fn read<R: Read + Seek>(tiff: &mut Decoder<R>, kind: ColorType, is_palette: bool) -> Result<Vec<u8>> {
    let (width, height) = tiff.dimensions()?;
    let (width, height, samples) = (width as usize, height as usize, usize::from(kind.num_samples()));
    let number = |tiff: &mut Decoder<R>, tag| tiff.find_tag_unsigned::<u16>(tag).ok().flatten();
    let planes = if number(tiff, Tag::PlanarConfiguration) == Some(2) { samples } else { 1 };
    let is_inverted = number(tiff, Tag::PhotometricInterpretation) == Some(WHITE_IS_ZERO);
    let bits = kind.bit_depth();
    let (across, down) = tiff.chunk_dimensions();
    let (across, down) = (across as usize, (down as usize).min(height));
    ensure!(across > 0 && down > 0, "its tiles are empty");
    let (columns, rows) = (width.div_ceil(across), height.div_ceil(down));
    let mut levels = vec![0; width * height * samples];
    let each = samples / planes; // values of a pixel in a chunk
    for plane in 0..planes {
        for (i, j) in (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))) {
            let chunk = u32::try_from((plane * rows + i) * columns + j)?;
            let (w, _) = tiff.chunk_data_dimensions(chunk);
            let mut values = match tiff.read_chunk(chunk)? {
                DecodingResult::U8(packed) if bits < 8 => unpacked(&packed, bits, w as usize * each, is_palette),
                // the library inverts, Pillow does not
                DecodingResult::U16(values) if is_inverted => {
                    levels::of_u16(values.into_iter().map(|x| !x), samples > 1)
                }
                DecodingResult::U16(values) => levels::of_u16(values.into_iter(), samples > 1),
                DecodingResult::U8(values) => values,
                DecodingResult::U32(values) => values.into_iter().map(|x| x.min(255) as u8).collect(),
                DecodingResult::I16(values) => values.into_iter().map(|x| x.clamp(0, 255) as u8).collect(),
                DecodingResult::I32(values) => values.into_iter().map(|x| x.clamp(0, 255) as u8).collect(),
                // `as` cuts off and stays within 0 and 255, as Pillow does
                DecodingResult::F32(values) => values.into_iter().map(|x| x as u8).collect(),
                _ => bail!("numbers of its kind, of {bits} bits, are not read: convert it to 8 bits or float32"),
            };
            values.resize(values.len().next_multiple_of(w as usize * each), 0);
            for (y, row) in values.chunks_exact(w as usize * each).enumerate().take(height - i * down) {
                for (x, pixel) in row.chunks_exact(each).enumerate() {
                    let at = ((i * down + y) * width + j * across + x) * samples + plane;
                    levels[at..at + each].copy_from_slice(pixel);
                }
            }
        }
    }
    Ok(levels)
}

/// Values of fewer than 8 bits, a row of `per_row` in whole bytes: indices as they are, grey scaled.
fn unpacked(packed: &[u8], bits: u8, per_row: usize, is_palette: bool) -> Vec<u8> {
    let (bits, most) = (usize::from(bits), (1u16 << bits) - 1);
    let scale = if is_palette { 1 } else { 255 / most };
    let value = |row: &[u8], i: usize| {
        let shift = 8 - bits - (i * bits) % 8;
        ((u16::from(row[i * bits / 8]) >> shift & most) * scale) as u8
    };
    let rows = packed.chunks_exact((per_row * bits).div_ceil(8));
    rows.flat_map(|row| (0..per_row).map(move |i| value(row, i))).collect()
}

/// The TIFF with indices in the place of colours, where it has a palette, and whether it has one:
/// the library reads no palettes.
fn with_indices_as_grey(encoded: &[u8]) -> (Cow<'_, [u8]>, bool) {
    let Some((at, is_little)) = photometric(encoded) else { return (Cow::Borrowed(encoded), false) };
    let bytes = |value: u16| if is_little { value.to_le_bytes() } else { value.to_be_bytes() };
    if encoded[at..at + 2] != bytes(PALETTE) {
        return (Cow::Borrowed(encoded), false);
    }
    let mut encoded = encoded.to_vec();
    encoded[at..at + 2].copy_from_slice(&bytes(BLACK_IS_ZERO));
    (Cow::Owned(encoded), true)
}

/// Where the first picture's tag `PhotometricInterpretation` has its value, and whether numbers
/// begin with their lowest byte.
fn photometric(encoded: &[u8]) -> Option<(usize, bool)> {
    let is_little = encoded.starts_with(b"II");
    let number = |at: usize, size: usize| {
        let bytes = encoded.get(at..at.checked_add(size)?)?.iter();
        let append = |sum: u64, &byte: &u8| sum << 8 | u64::from(byte);
        usize::try_from(if is_little { bytes.rev().fold(0, append) } else { bytes.fold(0, append) }).ok()
    };
    let is_big = number(2, 2)? == 43;
    // sizes of offsets, counts and entries
    let (offset, count, entry) = if is_big { (8, 8, 20) } else { (4, 2, 12) };
    let start = number(if is_big { 8 } else { 4 }, offset)?;
    let entries = number(start, count)?.min(encoded.len());
    let first = start + count;
    let found = (0..entries).map(|i| first + i * entry).find(|&at| number(at, 2) == Some(262))?;
    let value = found + if is_big { 12 } else { 8 };
    encoded.get(value..value + 2).map(|_| (value, is_little))
}
