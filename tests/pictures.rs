//! Pixels of pictures as Pillow has them: levels of more than 8 bits, palettes, planes, icons.

use std::io::Cursor;

use cgil::picture::decode;
use image::{
    DynamicImage, ExtendedColorType, ImageEncoder, ImageFormat, RgbImage, codecs::ico, codecs::png::PngEncoder,
};

use crate::support::{encoded, picture};

/// The pixels of a picture, flat.
fn pixels(bytes: &[u8]) -> Vec<u8> {
    decode(bytes, false).unwrap().into_raw()
}

fn refused(bytes: &[u8]) -> String {
    format!("{:#}", decode(bytes, false).unwrap_err())
}

/// A PNG of 16 bits, whose samples are in the machine's order.
fn wide_png(samples: &[u16], width: u32, kind: ExtendedColorType) -> Vec<u8> {
    let bytes: Vec<u8> = samples.iter().flat_map(|x| x.to_ne_bytes()).collect();
    let mut png = Vec::new();
    PngEncoder::new(&mut png).write_image(&bytes, width, 1, kind).unwrap();
    png
}

#[test]
fn sixteen_bits_of_grey_are_cut_off_and_of_colours_halved() {
    assert_eq!(
        pixels(&wide_png(&[0, 200, 256, 65535], 4, ExtendedColorType::L16)),
        [[0; 3], [200; 3], [255; 3], [255; 3]].concat()
    );
    assert_eq!(pixels(&wide_png(&[0x01ff, 0, 0xfffe], 1, ExtendedColorType::Rgb16)), [1, 0, 255]);
    assert_eq!(pixels(&wide_png(&[0x7fff, 0, 0x8000, 9], 2, ExtendedColorType::La16)), [127, 127, 127, 128, 128, 128]);
}

#[test]
fn few_bits_are_cut_off_as_they_become_eight() {
    // two pixels of 5, 6 and 5 bits: 3, 5, 7 and 12, 25, 31
    let levels = [3u16 << 11 | 5 << 5 | 7, 12 << 11 | 25 << 5 | 31];
    let numbers = |of: &[u32]| of.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let header = [numbers(&[40, 2, 1]), vec![1, 0, 16, 0], numbers(&[3, 4, 0, 0, 0, 0, 0xf800, 0x7e0, 0x1f])].concat();
    let pixels_of = levels.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let bmp = [b"BM".to_vec(), numbers(&[70, 0, 66]), header, pixels_of].concat();
    assert_eq!(pixels(&bmp), [24, 20, 57, 98, 101, 255]);
}

#[test]
fn a_png_may_lack_its_end_but_no_part_of_a_chunk() {
    let png = encoded(picture(1, 2, 40), ImageFormat::Png);
    let end = png.len() - 12;
    assert_eq!(pixels(&png[..end]), picture(1, 2, 40).into_raw());
    for end in [end - 1, end + 3, png.len() / 2] {
        refused(&png[..end]);
    }
}

/// The tags of a TIFF, each with the size of its values and the values.
type Tags<'a> = &'a [(u16, u16, &'a [u32])];

/// A TIFF of 2 x 3 pixels whose strips or tiles follow each other from byte 8 on, as long as each
/// other; `tags` are those beside its size and theirs.
fn tiff(chunks: &[&[u8]], tile: Option<u32>, tags: Tags) -> Vec<u8> {
    let length = chunks[0].len() as u32;
    let offsets: Vec<u32> = (0..chunks.len() as u32).map(|i| 8 + i * length).collect();
    let lengths = vec![length; chunks.len()];
    let mut all: Vec<(u16, u16, Vec<u32>)> = vec![(256, 4, vec![2]), (257, 4, vec![3]), (259, 3, vec![1])];
    match tile {
        Some(side) => all.extend([(322, 4, vec![side]), (323, 4, vec![side]), (324, 4, offsets), (325, 4, lengths)]),
        None => all.extend([(273, 4, offsets), (278, 4, vec![3]), (279, 4, lengths)]),
    }
    all.extend(tags.iter().map(|(tag, size, values)| (*tag, *size, values.to_vec())));
    all.sort();
    let data = chunks.concat();
    let after = 8 + data.len() + 2 + 12 * all.len() + 4;
    let mut bytes = [b"II*\0", &(8 + data.len() as u32).to_le_bytes()[..], &data].concat();
    bytes.extend((all.len() as u16).to_le_bytes());
    let mut values = Vec::new();
    for (tag, size, of) in &all {
        let raw: Vec<u8> = of.iter().flat_map(|x| x.to_le_bytes()[..if *size == 3 { 2 } else { 4 }].to_vec()).collect();
        bytes.extend([tag.to_le_bytes(), size.to_le_bytes()].concat());
        bytes.extend((of.len() as u32).to_le_bytes());
        let place = (after + values.len()) as u32;
        if raw.len() > 4 {
            bytes.extend(place.to_le_bytes());
            values.extend(raw);
        } else {
            bytes.extend([raw, vec![0; 4]].concat().into_iter().take(4));
        }
    }
    [bytes, vec![0; 4], values].concat()
}

#[test]
fn a_tiff_may_have_a_palette_planes_tiles_and_any_numbers() {
    let grey = |levels: [u8; 6]| levels.into_iter().flat_map(|level| [level; 3]).collect::<Vec<u8>>();
    let one = |bits: u32, format: u32, photometric: u32| {
        vec![(258, 3, vec![bits]), (262, 3, vec![photometric]), (277, 3, vec![1]), (339, 3, vec![format])]
    };
    let of = |chunks: &[&[u8]], tags: Vec<(u16, u16, Vec<u32>)>| {
        let tags: Vec<(u16, u16, &[u32])> = tags.iter().map(|(tag, size, of)| (*tag, *size, &of[..])).collect();
        tiff(chunks, None, &tags)
    };
    // a palette of 4 colours in 2 bits: rows of a byte each, the colours' red, green and blue apart
    let colours = [0, 0x1000, 0x2000, 0xff00, 0, 0x1100, 0x2200, 0, 0, 0x1200, 0x2400, 0x80ff].to_vec();
    let mut tags = one(2, 1, 3);
    tags.push((320, 3, colours));
    let palette = of(&[&[0b0001_0000, 0b1011_0000, 0b0100_0000]], tags);
    assert_eq!(pixels(&palette), [[0; 3], [16, 17, 18], [32, 34, 36], [255, 0, 128], [16, 17, 18], [0; 3]].concat());
    // float32 and int32 are cut off, of the latter's 16 bits too
    let floats: Vec<u8> = [-5.5f32, 0.9, 1.5, 254.9, 255.5, 1e9].into_iter().flat_map(f32::to_le_bytes).collect();
    assert_eq!(pixels(&of(&[&floats], one(32, 3, 1))), grey([0, 0, 1, 254, 255, 255]));
    let integers: Vec<u8> = [-5i32, 0, 1, 254, 256, 70_000].into_iter().flat_map(i32::to_le_bytes).collect();
    assert_eq!(pixels(&of(&[&integers], one(32, 2, 1))), grey([0, 0, 1, 254, 255, 255]));
    let words: Vec<u8> = [0u16, 1, 254, 255, 256, 60_000].into_iter().flat_map(u16::to_le_bytes).collect();
    for (photometric, expected) in [(1, [0, 1, 254, 255, 255, 255]), (0, [0, 1, 254, 255, 255, 255])] {
        assert_eq!(pixels(&of(&[&words], one(16, 1, photometric))), grey(expected));
    }
    let doubles: Vec<u8> = [1f64; 6].into_iter().flat_map(f64::to_le_bytes).collect();
    assert!(refused(&of(&[&doubles], one(64, 3, 1))).contains("64 bits"));
    // cyan, magenta, yellow and black
    let inks = [[10, 20, 30, 40], [255, 0, 128, 255], [7, 200, 99, 0], [0; 4], [0, 0, 0, 255], [128; 4]].concat();
    let cmyk = of(&[&inks], vec![(258, 3, vec![8; 4]), (262, 3, vec![5]), (277, 3, vec![4])]);
    assert_eq!(pixels(&cmyk), [[207, 198, 190], [0; 3], [248, 55, 156], [255; 3], [0; 3], [63; 3]].concat());
    // a plane in a tile for each colour, and what a colour was multiplied by
    let levels = [[1, 2, 3, 4, 5, 6], [11, 12, 13, 14, 15, 16], [21, 22, 23, 24, 25, 26], [255, 0, 51, 255, 255, 255]];
    let tiles = levels.map(|of| {
        let mut tile = [99; 256];
        of.iter().enumerate().for_each(|(i, level)| tile[16 * (i / 2) + i % 2] = *level);
        tile
    });
    let tiles: Vec<&[u8]> = tiles.iter().map(|tile| &tile[..]).collect();
    let rgb = |samples: u32| vec![samples];
    for (samples, extra, third) in [(3u32, None, [3, 13, 23]), (4, Some(2), [3, 13, 23]), (4, Some(1), [15, 65, 115])] {
        let bits = vec![8; samples as usize];
        let count = rgb(samples);
        let extra: Vec<u32> = extra.into_iter().collect();
        let mut tags: Vec<(u16, u16, &[u32])> = vec![(258, 3, &bits), (262, 3, &[2]), (277, 3, &count), (284, 3, &[2])];
        if !extra.is_empty() {
            tags.push((338, 3, &extra));
        }
        let planar = decode(&tiff(&tiles[..samples as usize], Some(16), &tags), false).unwrap();
        assert_eq!(planar.dimensions(), (2, 3));
        assert_eq!((planar.get_pixel(1, 1).0, planar.get_pixel(0, 1).0), ([4, 14, 24], third), "{samples} {extra:?}");
    }
}

#[test]
fn of_an_icon_the_largest_picture_counts() {
    let frame = |class: usize, side: u32| {
        let picture = RgbImage::from_pixel(side, side, *picture(class, 0, 8).get_pixel(3, 3));
        let png = encoded(picture.clone(), ImageFormat::Png);
        (picture, ico::IcoFrame::with_encoded(png, side, side, ExtendedColorType::Rgb8).unwrap())
    };
    let ((_, small), (large, largest), (_, other)) = (frame(0, 16), frame(1, 48), frame(2, 32));
    let mut bytes = Vec::new();
    ico::IcoEncoder::new(&mut bytes).encode_images(&[small, other, largest]).unwrap();
    assert_eq!(decode(&bytes, false).unwrap(), large);
    let mut bitmap = Cursor::new(Vec::new());
    DynamicImage::from(large.clone()).into_rgba8().write_to(&mut bitmap, ImageFormat::Ico).unwrap();
    assert_eq!(decode(bitmap.get_ref(), false).unwrap(), large);
    for end in [4, 6, 20, bytes.len() - 1] {
        refused(&bytes[..end]);
    }
}
