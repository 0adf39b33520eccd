//! Which files are pictures, and what is seen in them.

use image::{DynamicImage, Frame, ImageFormat, Rgb, RgbImage, codecs::gif::GifEncoder};
use tempfile::tempdir;

use crate::{
    sources::{assert_holds, extract, folder, write},
    support::{encoded, picture, query},
};

#[test]
fn the_content_decides_what_a_picture_is() {
    let dir = tempdir().unwrap();
    let (data, run_dir) = (dir.path().join("data"), dir.path().join("run"));
    folder(&data, &["cat", "dog"]);
    let one = picture(0, 7, 64);
    let cat = data.join("train/cat");
    for (name, format) in [
        ("a.png", ImageFormat::Png),
        ("a.bmp", ImageFormat::Bmp),
        ("a.tif", ImageFormat::Tiff),
        ("a.TIFF", ImageFormat::Tiff),
        ("a.ppm", ImageFormat::Pnm),
        ("bmp.jpg", ImageFormat::Bmp),
        ("png.data", ImageFormat::Png),
        ("tiff", ImageFormat::Tiff),
        ("j.jpg", ImageFormat::Jpeg),
        ("j.jfif", ImageFormat::Jpeg),
        ("j.jpe", ImageFormat::Jpeg),
        ("j.png", ImageFormat::Jpeg),
        ("deep/er/j.heic", ImageFormat::Jpeg),
    ] {
        write(cat.join(name), encoded(one.clone(), format));
    }
    // an animation of two frames, and its first alone
    let frame = |class| Frame::new(DynamicImage::from(picture(class, 0, 64)).into_rgba8());
    for (name, frames) in [("g1.gif", vec![frame(1)]), ("g2.gif", vec![frame(1), frame(2)])] {
        let mut bytes = Vec::new();
        GifEncoder::new(&mut bytes).encode_frames(frames).unwrap();
        write(cat.join(name), bytes);
    }
    write(cat.join("x.avif"), b"\0\0\0\x20ftypavif\0\0\0\0");
    write(cat.join("x.jpg"), "<html>404</html>");
    write(cat.join("unnamed"), b"\0\0\0\x0cjP  \r\n\x87\n");
    write(cat.join("notes.txt"), "BM are two letters");
    write(cat.join("Thumbs.db"), "");
    let notes = extract(&data, &run_dir, &[]);
    assert_holds(&notes, &["train/cat/Thumbs.db and 1 more file"]);

    let same = |pattern: &str| {
        let sql = format!("SELECT COUNT(DISTINCT norm), COUNT(*) FROM embeddings WHERE {pattern}");
        query(&run_dir, &sql)[0].clone()
    };
    let lossless = "sample_id LIKE 'train/cat/a.%' OR sample_id IN \
                    ('train/cat/bmp.jpg', 'train/cat/png.data', 'train/cat/tiff')";
    assert_eq!(same(lossless), "1,8");
    assert_eq!(same("sample_id LIKE 'train/cat/%j.%'"), "1,5");
    assert_eq!(same("sample_id LIKE 'train/cat/g%.gif'"), "1,2");
    assert_eq!(
        query(&run_dir, "SELECT sample_id, stage, error FROM quarantine ORDER BY sample_id"),
        [
            "train/cat/unnamed,decode,JPEG 2000 is not read: convert it to PNG or JPEG",
            "train/cat/x.avif,decode,AVIF is not read: convert it to PNG or JPEG",
            "train/cat/x.jpg,decode,\"by its first bytes it is no picture: expected JPEG, PNG, WebP, GIF, BMP, TIFF, PNM or ICO\"",
        ]
    );
}

#[test]
fn a_tiff_is_turned_as_pillow_turns_it() {
    // 2 x 1 pixels, red and blue, and an orientation of 6: to be turned right
    let entry = |tag: u16, kind: u16, value: u32| {
        [&tag.to_le_bytes()[..], &kind.to_le_bytes(), &1u32.to_le_bytes(), &value.to_le_bytes()].concat()
    };
    let mut tiff = b"II*\0\x10\0\0\0\xff\0\0\0\0\xff\0\0".to_vec();
    let entries = [
        entry(256, 4, 2),
        entry(257, 4, 1),
        [&258u16.to_le_bytes()[..], &3u16.to_le_bytes(), &3u32.to_le_bytes(), &130u32.to_le_bytes()].concat(),
        entry(259, 3, 1),
        entry(262, 3, 2),
        entry(273, 4, 8),
        entry(274, 3, 6),
        entry(277, 3, 3),
        entry(279, 4, 6),
    ];
    tiff.extend((entries.len() as u16).to_le_bytes());
    entries.iter().for_each(|entry| tiff.extend(entry));
    tiff.extend(0u32.to_le_bytes());
    tiff.extend([8u16, 8, 8].iter().flat_map(|bits| bits.to_le_bytes()));
    let turned = RgbImage::from_fn(1, 2, |_, y| if y == 0 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) });
    assert_eq!(cgil::picture::decode(&tiff, false).unwrap(), turned);
}

#[test]
fn around_a_gifs_first_frame_is_the_first_colour_of_its_palette() {
    let mut bytes = Vec::new();
    let frame = RgbImage::from_fn(4, 4, |x, _| if x < 2 { Rgb([200, 10, 30]) } else { Rgb([10, 20, 230]) });
    GifEncoder::new(&mut bytes).encode_frames([Frame::new(DynamicImage::from(frame).into_rgba8())]).unwrap();
    let inside = cgil::picture::decode(&bytes, false).unwrap();
    bytes[6..10].copy_from_slice(&[7, 0, 6, 0]); // the picture's size, which the frame leaves as it is
    let whole = cgil::picture::decode(&bytes, false).unwrap();
    let outside = *whole.get_pixel(6, 5);
    assert!(outside == *inside.get_pixel(0, 0) || outside == *inside.get_pixel(3, 0), "{outside:?}");
    let expected = RgbImage::from_fn(7, 6, |x, y| if x < 4 && y < 4 { *inside.get_pixel(x, y) } else { outside });
    assert_eq!(whole, expected);
}

#[test]
fn a_gif_is_as_large_as_its_first_frame_needs() {
    let mut bytes = Vec::new();
    let frame = RgbImage::from_fn(4, 4, |x, y| if (x + y) % 2 == 0 { Rgb([200, 10, 30]) } else { Rgb([10, 20, 230]) });
    GifEncoder::new(&mut bytes).encode_frames([Frame::new(DynamicImage::from(frame).into_rgba8())]).unwrap();
    let inside = cgil::picture::decode(&bytes, false).unwrap();
    let place = bytes.windows(9).position(|part| part == [0x2c, 0, 0, 0, 0, 4, 0, 4, 0]).unwrap();
    // picture, where its frame begins, and the size that Pillow gives
    for (picture, begin, size) in
        [([4, 4], [0, 0], (4, 4)), ([2, 3], [0, 0], (4, 4)), ([4, 4], [2, 1], (6, 5)), ([0, 0], [0, 0], (4, 4))]
    {
        bytes[6..10].copy_from_slice(&[picture[0], 0, picture[1], 0]);
        bytes[place + 1..place + 5].copy_from_slice(&[begin[0], 0, begin[1], 0]);
        let whole = cgil::picture::decode(&bytes, false).unwrap();
        assert_eq!(whole.dimensions(), size, "{picture:?} {begin:?}");
        let [x, y] = begin.map(u32::from);
        assert_eq!(image::imageops::crop_imm(&whole, x, y, 4, 4).to_image(), inside);
    }
    bytes[place + 1..place + 3].copy_from_slice(&[0xff, 0xff]);
    assert!(cgil::picture::decode(&bytes, false).unwrap_err().to_string().contains("beyond 65535"));
}
