"""Some three hundred pictures of every mode, size and format that people have, and some that are broken.

Pillow writes most of them. What it does not write is put together here: interlaced, 16-bit and low-depth PNG,
run-length and 16-bit BMP, tiled and planar TIFF, partial GIF frames, JPEG as Adobe writes it.
"""

import io
import itertools
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

SIZES = [(1, 1), (1, 7), (2, 3), (7, 1), (17, 31), (64, 64), (65, 97), (100, 64), (131, 257), (200, 150), (333, 222)]
MIDDLE = (131, 97)
LARGE = (6000, 4000)


def scene(w: int, h: int, seed: int = 0) -> Image.Image:
    """Gradients, waves, edges in strong colours and a little noise."""
    random = np.random.RandomState(seed)
    y, x = np.mgrid[0:h, 0:w]
    waves = [220 * x / w + 20, 230 - 180 * y / h, 120 + 90 * np.sin(x / 5 + seed) * np.cos(y / 7)]
    levels = np.stack(waves, -1) + random.normal(0, 6, (h, w, 3))
    image = Image.fromarray(levels.clip(0, 255).astype("uint8"))
    draw = ImageDraw.Draw(image)
    for _ in range(4):
        (x0, x1), (y0, y1) = sorted(random.randint(0, w, 2)), sorted(random.randint(0, h, 2))
        draw.rectangle([x0, y0, x1, y1], fill=tuple(random.randint(0, 256, 3)))
        draw.ellipse([x0 // 2, y0 // 2, x1, y1], outline=tuple(random.randint(0, 256, 3)), width=2)
    return image


def alpha(image: Image.Image) -> Image.Image:
    """As opaque as it is bright, with holes."""
    mask = np.asarray(image.convert("L")).copy()
    mask[::3, ::5] = 0
    return Image.fromarray(mask)


def in_mode(mode: str, image: Image.Image) -> Image.Image:
    """The picture in one of Pillow's modes."""
    if mode in ("RGBA", "LA", "PA"):
        image = image.convert({"RGBA": "RGB", "LA": "L", "PA": "P"}[mode]).convert(mode)
        image.putalpha(alpha(image))
        return image
    if mode.startswith("I;16"):
        grey = np.asarray(image.convert("L")).astype("uint16") * 257 // 2
        return Image.fromarray(grey.astype(">u2" if mode.endswith("B") else "<u2"))
    if mode == "I":
        return Image.fromarray(np.asarray(image.convert("L")).astype("int32") * 3 - 100)
    if mode == "F":
        return Image.fromarray(np.asarray(image.convert("L")).astype("float32") * 1.7 - 60.3)
    return image.convert(mode)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def packed(samples: np.ndarray, depth: int) -> bytes:
    """Rows of samples (H, W·C), the first in the highest bits, each row in whole bytes."""
    if depth == 16:
        return samples.astype(">u2").tobytes()
    if depth == 8:
        return samples.astype("u1").tobytes()
    bits = np.unpackbits(samples.astype("u1")[..., None], axis=-1)[..., 8 - depth:]
    return np.packbits(bits.reshape(len(samples), -1), axis=-1).tobytes()


def png(samples: np.ndarray, depth: int, colour: int, extra: bytes = b"", interlaced: bool = False) -> bytes:
    """A PNG of samples (H, W, C); `extra` are chunks before the pixels."""
    h, w, channels = samples.shape
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    data = b""
    for top, left, down, right in passes:
        part = samples[top::down, left::right]
        for row in part if part.shape[1] else []:
            data += b"\0" + packed(row.reshape(1, -1), depth)
    header = struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, int(interlaced))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(data))
            + chunk(b"IEND", b""))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(samples: np.ndarray, photometric: int, order: str = "<", tile: int = 0, planar: bool = False,
         sample_format: int = 1, extra: tuple[tuple[int, int, int], ...] = ()) -> bytes:
    """A plain TIFF of samples (H, W, C), in one strip or in tiles."""
    h, w, channels = samples.shape
    samples = samples.astype(samples.dtype.newbyteorder(order))
    planes = [samples[..., c:c + 1] for c in range(channels)] if planar else [samples]
    blocks = []
    for plane in planes:
        if not tile:
            blocks.append(plane.tobytes())
            continue
        for y, x in itertools.product(range(0, h, tile), range(0, w, tile)):
            block = np.zeros((tile, tile, plane.shape[2]), samples.dtype)
            part = plane[y:y + tile, x:x + tile]
            block[:part.shape[0], :part.shape[1]] = part
            blocks.append(block.tobytes())
    data, offsets = b"", []
    for block in blocks:
        offsets.append(8 + len(data))
        data += block
    bits = 8 * samples.dtype.itemsize
    entries = {256: (4, [w]), 257: (4, [h]), 258: (3, [bits] * channels), 259: (3, [1]), 262: (3, [photometric]),
               277: (3, [channels]), 284: (3, [2 if planar else 1]), 339: (3, [sample_format] * channels)}
    sizes = [len(block) for block in blocks]
    entries |= ({322: (3, [tile]), 323: (3, [tile]), 324: (4, offsets), 325: (4, sizes)} if tile else
                {273: (4, offsets), 278: (4, [h]), 279: (4, sizes)})
    entries |= {tag: (kind, [value]) for tag, kind, value in extra}
    start = 8 + len(data) + len(data) % 2
    data += b"\0" * (len(data) % 2)
    after, directory = start + 2 + 12 * len(entries) + 4, b""
    values = b""
    for tag, (kind, items) in sorted(entries.items()):
        raw = struct.pack(order + {3: "H", 4: "I"}[kind] * len(items), *items)
        if len(raw) > 4:
            place, values = after + len(values), values + raw + b"\0" * (len(raw) % 2)
            raw = struct.pack(order + "I", place)
        directory += struct.pack(order + "HHI", tag, kind, len(items)) + raw.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    return head + data + struct.pack(order + "H", len(entries)) + directory + b"\0" * 4 + values


def bmp(w: int, h: int, bits: int, compression: int, data: bytes, palette: bytes = b"", masks: bytes = b"",
        header: int = 40) -> bytes:
    """A BMP of encoded pixels; of a negative height it begins at the top."""
    offset = 14 + header + len(palette) + (len(masks) if header == 40 else 0)
    about = struct.pack("<IiiHHIIiiII", header, w, h, 1, bits, compression, len(data), 2835, 2835, len(palette) // 4, 0)
    about += masks
    if header > 40:
        about = about.ljust(header, b"\0")
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + about + palette + data


def bmp_rows(samples: np.ndarray, bytes_each: int) -> bytes:
    """Rows from the bottom up, each filled up to four bytes."""
    rows = []
    for row in samples[::-1]:
        raw = row.tobytes()
        rows.append(raw + b"\0" * (-len(row) * bytes_each % 4))
    return b"".join(rows)


def run_lengths(indices: np.ndarray, four: bool, jumps: bool) -> bytes:
    """Runs, with an absolute stretch, and with `jumps` a jump, in every third row."""
    data = b""
    for y, row in enumerate(indices[::-1]):
        x = 0
        if y % 3 == 1 and len(row) > 8:
            part = row[:5]
            if four:
                pairs = bytes((int(part[i]) << 4) | (int(part[i + 1]) if i + 1 < 5 else 0) for i in range(0, 5, 2))
                data += b"\0\5" + pairs + b"\0" * (len(pairs) % 2)
            else:
                data += b"\0\5" + part.tobytes() + b"\0"
            x = 5
        if jumps and y % 3 == 2 and len(row) > 8:
            data, x = data + b"\0\2\3\0", 3
        while x < len(row):
            n = 1
            while x + n < len(row) and n < 255 and row[x + n] == row[x]:
                n += 1
            value = int(row[x])
            data += bytes([n, (value << 4) | value if four else value])
            x += n
        data += b"\0\0"
    return data + b"\0\1"


def gif(image: Image.Image, canvas: tuple[int, int], at: tuple[int, int], transparent: int | None) -> bytes:
    """A GIF whose frame lies somewhere in a larger picture."""
    data = bytearray(saved(image, "GIF"))
    data[6:10] = struct.pack("<HH", *canvas)
    frame = data.index(b"\x2c\0\0\0\0" + struct.pack("<HH", *image.size))
    data[frame + 1:frame + 5] = struct.pack("<HH", *at)
    if transparent is not None:
        data[frame:frame] = b"\x21\xf9\x04\x01\0\0" + bytes([transparent]) + b"\0"
        data[3:6] = b"89a"
    return bytes(data)


def jpegs() -> Iterator[tuple[str, bytes]]:
    for i, size in enumerate(SIZES):
        for mode in ("L", "RGB", "CMYK"):
            yield f"{mode}-{size[0]}x{size[1]}.jpg", saved(in_mode(mode, scene(*size, i)), "JPEG", quality=60 + 3 * i)
    for sampling, quality, progressive in itertools.product(("4:4:4", "4:2:2", "4:2:0", "4:1:1"), (30, 75, 95), (0, 1)):
        yield (f"{sampling.replace(':', '')}-q{quality}{'-progressive' * progressive}.jpg",
               saved(scene(*MIDDLE, quality), "JPEG", quality=quality, subsampling=sampling, progressive=bool(progressive)))
    image = scene(*MIDDLE, 5)
    for size in [(16, 16), (17, 16), (16, 17), (33, 47), (8, 200)]:
        yield f"odd-{size[0]}x{size[1]}.jpg", saved(scene(*size, 3), "JPEG", quality=92, subsampling="4:2:0")
    yield "optimised.jpg", saved(image, "JPEG", optimize=True)
    yield "restarts.jpg", saved(image, "JPEG", restart_marker_rows=1)
    yield "rgb-as-it-is.jpg", saved(image, "JPEG", keep_rgb=True)
    yield "grey-progressive.jpg", saved(image.convert("L"), "JPEG", progressive=True)
    yield "cmyk-progressive.jpg", saved(image.convert("CMYK"), "JPEG", progressive=True, quality=90)
    # the four planes as Y, Cb, Cr and K, as Adobe's transform 2 says
    ycck = Image.merge("CMYK", [*image.convert("YCbCr").split(), alpha(image)])
    for name, options in [("ycck", {}), ("ycck-progressive", {"progressive": True})]:
        data = bytearray(saved(ycck, "JPEG", quality=95, **options))
        place = data.index(b"Adobe")
        data[place + 11] = 2
        yield f"{name}.jpg", bytes(data)
    data = saved(image.convert("CMYK"), "JPEG", quality=95)
    place = data.index(b"\xff\xee\0\x0eAdobe")
    yield "cmyk-without-adobe.jpg", data[:place] + data[place + 16:]
    exif = Image.Exif()
    exif[0x112] = 6
    yield "turned.jpg", saved(image, "JPEG", exif=exif)
    data = saved(image, "JPEG", quality=90)
    yield "more-behind.jpg", data + b"trailing bytes"
    yield "fill-bytes.jpg", data[:2] + b"\xff\xff\xff" + data[2:]
    yield "comment.jpg", saved(image, "JPEG", comment=b"c" * 3000, dpi=(300, 300))
    yield "two-pictures.jpg", saved(image, "MPO", save_all=True, append_images=[scene(40, 40)])
    yield "large.jpg", saved(scene(*LARGE, 1), "JPEG", quality=85)
    for part in (0.3, 0.7, 0.99):
        yield f"cut-{part}.jpg", data[:int(len(data) * part)]
    yield "no-end.jpg", data[:-2]
    progressive = saved(image, "JPEG", quality=90, progressive=True)
    yield "cut-progressive.jpg", progressive[:len(progressive) * 2 // 3]
    yield "damaged.jpg", data[:900] + bytes(50) + data[950:]
    yield "headers-alone.jpg", data[:300]


def pngs() -> Iterator[tuple[str, bytes]]:
    modes = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
    for (i, size), mode in itertools.product(enumerate(SIZES[::2] + [(100, 64)]), modes):
        image = in_mode(mode, scene(*size, i))
        yield f"{mode.replace(';', '-')}-{size[0]}x{size[1]}.png", saved(image, "PNG")
    image = scene(*MIDDLE, 6)
    rgb, grey = np.asarray(image), np.asarray(image.convert("L"))[..., None]
    for depth, interlaced in itertools.product((1, 2, 4, 8, 16), (False, True)):
        name = f"{depth}-bit{'-interlaced' * interlaced}.png"
        levels = grey.astype("u2") * 257 >> 16 - depth
        yield f"grey-{name}", png(levels, depth, 0, interlaced=interlaced)
        if depth < 16:
            quantised = image.quantize(1 << depth)
            colours = chunk(b"PLTE", bytes(quantised.getpalette()[:3 << depth]))
            yield f"palette-{name}", png(np.asarray(quantised)[..., None], depth, 3, colours, interlaced)
        if depth >= 8:
            wide = rgb.astype("u2") * 257 + (7 if depth == 16 else 0) >> 16 - depth
            see = np.asarray(alpha(image))[..., None].astype("u2") * 257 >> 16 - depth
            yield f"rgb-{name}", png(wide, depth, 2, interlaced=interlaced)
            yield f"rgba-{name}", png(np.concatenate([wide, see], -1), depth, 6, interlaced=interlaced)
            yield f"grey-alpha-{name}", png(np.concatenate([levels, see], -1), depth, 4, interlaced=interlaced)
    # a colour, or levels of a palette, that is transparent
    quantised = image.quantize(16)
    colours = chunk(b"PLTE", bytes(quantised.getpalette()[:48]))
    yield "palette-transparent.png", png(np.asarray(quantised)[..., None], 4, 3, colours + chunk(b"tRNS", bytes(range(0, 240, 30))))
    yield "palette-one-transparent.png", png(np.asarray(quantised)[..., None], 8, 3, colours + chunk(b"tRNS", b"\xff\xff\0"))
    yield "palette-too-short.png", png(np.asarray(quantised)[..., None], 8, 3, chunk(b"PLTE", bytes(quantised.getpalette()[:24])))
    for depth in (1, 2, 4, 8, 16):
        levels = grey.astype("u2") * 257 >> 16 - depth
        see = chunk(b"tRNS", struct.pack(">H", int(levels[0, 0, 0])))
        yield f"grey-{depth}-bit-transparent.png", png(levels, depth, 0, see)
    for depth in (8, 16):
        wide = rgb.astype("u2") * 257 >> 16 - depth
        yield f"rgb-{depth}-bit-transparent.png", png(wide, depth, 2, chunk(b"tRNS", struct.pack(">HHH", *map(int, wide[0, 0]))))
    for name, extra in [("gamma", chunk(b"gAMA", struct.pack(">I", 100000))), ("srgb", chunk(b"sRGB", b"\0")),
                        ("text", chunk(b"tEXt", b"Comment\0words")), ("background", chunk(b"bKGD", struct.pack(">HHH", 9, 9, 9)))]:
        yield f"{name}.png", png(rgb, 8, 2, extra)
    frames = [scene(*MIDDLE, i) for i in range(3)]
    yield "animated.png", saved(frames[0], "PNG", save_all=True, append_images=frames[1:], duration=50)
    yield "animated-apart.png", saved(frames[0], "PNG", save_all=True, append_images=frames[1:], default_image=True)
    yield "animated-rgba.png", saved(in_mode("RGBA", frames[0]), "PNG", save_all=True, append_images=[in_mode("RGBA", frames[1])])
    yield "large.png", saved(scene(600, 400, 2).resize(LARGE, Image.Resampling.NEAREST), "PNG")
    data = png(rgb, 8, 2)
    yield "cut.png", data[:len(data) // 2]
    yield "no-end.png", data[:-12]
    yield "headers-alone.png", data[:33]
    yield "odd-checksum.png", data[:-20] + bytes(4) + data[-16:]
    yield "odd-header-checksum.png", data[:29] + bytes(4) + data[33:]


def webps() -> Iterator[tuple[str, bytes]]:
    for i, size in enumerate(SIZES):
        image = scene(*size, i)
        yield f"lossy-{size[0]}x{size[1]}.webp", saved(image, "WEBP", quality=50 + 4 * i)
        yield f"lossless-{size[0]}x{size[1]}.webp", saved(image, "WEBP", lossless=True)
        yield f"alpha-{size[0]}x{size[1]}.webp", saved(in_mode("RGBA", image), "WEBP", quality=80)
        yield f"lossless-alpha-{size[0]}x{size[1]}.webp", saved(in_mode("RGBA", image), "WEBP", lossless=True, exact=bool(i % 2))
    frames = [scene(*MIDDLE, i) for i in range(3)]
    clear = [in_mode("RGBA", frame) for frame in frames]
    yield "grey.webp", saved(frames[0].convert("L"), "WEBP", quality=80)
    yield "animated.webp", saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], quality=80)
    yield "animated-lossless.webp", saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    yield "animated-alpha.webp", saved(clear[0], "WEBP", save_all=True, append_images=clear[1:], lossless=True)
    yield "animated-alpha-lossy.webp", saved(clear[0], "WEBP", save_all=True, append_images=clear[1:], quality=70)
    yield "few-colours.webp", saved(frames[0].quantize(6).convert("RGB"), "WEBP", lossless=True)
    yield "large.webp", saved(scene(600, 400, 3).resize(LARGE), "WEBP", quality=60, method=0)
    data = saved(frames[0], "WEBP", quality=80)
    yield "cut.webp", data[:len(data) // 2]
    yield "headers-alone.webp", data[:40]


def gifs() -> Iterator[tuple[str, bytes]]:
    for i, size in enumerate(SIZES):
        for mode in ("P", "L", "1"):
            yield f"{mode}-{size[0]}x{size[1]}.gif", saved(in_mode(mode, scene(*size, i)), "GIF")
    image = scene(*MIDDLE, 8).quantize(32)
    yield "interlaced.gif", saved(image, "GIF", interlace=1)
    yield "transparent.gif", saved(image, "GIF", transparency=3)
    yield "rgba.gif", saved(in_mode("RGBA", scene(*MIDDLE, 8)), "GIF")
    frames = [scene(*MIDDLE, i).quantize(64) for i in range(3)]
    yield "animated.gif", saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=40)
    yield "animated-transparent.gif", saved(frames[0], "GIF", save_all=True, append_images=frames[1:], transparency=2, disposal=2)
    for canvas, at in [((200, 150), (0, 0)), ((200, 150), (30, 20)), ((100, 64), (0, 0))]:
        for transparent in (None, 5):
            name = f"frame-{at[0]}-{at[1]}-in-{canvas[0]}x{canvas[1]}{'-transparent' * (transparent is not None)}.gif"
            yield name, gif(image, canvas, at, transparent)
    yield "large.gif", saved(scene(600, 400, 4).resize(LARGE, Image.Resampling.NEAREST).quantize(32), "GIF")
    data = saved(image, "GIF")
    yield "cut.gif", data[:len(data) // 2]
    yield "no-end.gif", data[:-1]


def bmps() -> Iterator[tuple[str, bytes]]:
    for i, size in enumerate(SIZES):
        for mode in ("1", "L", "P", "RGB", "RGBA"):
            if mode in ("RGB", "P") or i % 4 == 0:
                yield f"{mode}-{size[0]}x{size[1]}.bmp", saved(in_mode(mode, scene(*size, i)), "BMP")
    image = scene(*MIDDLE, 9)
    w, h = MIDDLE
    rgb = np.asarray(image).astype("u2")
    for bits, four in [(8, False), (4, True)]:
        quantised = image.quantize(1 << bits)
        colours = np.asarray(quantised.getpalette()[:3 << bits], "u1").reshape(-1, 3)
        palette = b"".join(bytes([b, g, r, 0]) for r, g, b in colours)
        indices = np.asarray(quantised)
        for jumps in (False, True):
            runs = run_lengths(indices, four, jumps)
            yield f"runs-{bits}{'-jumps' * jumps}.bmp", bmp(w, h, bits, 2 if four else 1, runs, palette)
        rows = b"".join((packed(row[None], bits) + b"\0" * 3)[:-(-w * bits // 32) * 4].ljust(-(-w * bits // 32) * 4, b"\0") for row in indices[::-1])
        yield f"palette-{bits}.bmp", bmp(w, h, bits, 0, rows, palette)
    b555 = (rgb[..., 0] >> 3 << 10 | rgb[..., 1] >> 3 << 5 | rgb[..., 2] >> 3).astype("<u2")
    b565 = (rgb[..., 0] >> 3 << 11 | rgb[..., 1] >> 2 << 5 | rgb[..., 2] >> 3).astype("<u2")
    yield "16-bit.bmp", bmp(w, h, 16, 0, bmp_rows(b555, 2))
    yield "16-bit-555.bmp", bmp(w, h, 16, 3, bmp_rows(b555, 2), masks=struct.pack("<III", 0x7c00, 0x3e0, 0x1f))
    yield "16-bit-565.bmp", bmp(w, h, 16, 3, bmp_rows(b565, 2), masks=struct.pack("<III", 0xf800, 0x7e0, 0x1f))
    bgrx = np.concatenate([np.asarray(image)[..., ::-1], np.asarray(alpha(image))[..., None]], -1)
    yield "32-bit.bmp", bmp(w, h, 32, 0, bgrx[::-1].tobytes())
    yield "32-bit-masks.bmp", bmp(w, h, 32, 3, bgrx[::-1].tobytes(), masks=struct.pack("<III", 0xff0000, 0xff00, 0xff))
    yield "32-bit-alpha.bmp", bmp(w, h, 32, 3, bgrx[::-1].tobytes(), masks=struct.pack("<IIII", 0xff0000, 0xff00, 0xff, 0xff000000), header=108)
    yield "32-bit-v5.bmp", bmp(w, h, 32, 3, bgrx[::-1].tobytes(), masks=struct.pack("<IIII", 0xff0000, 0xff00, 0xff, 0xff000000), header=124)
    yield "top-down.bmp", bmp(w, -h, 24, 0, bmp_rows(np.asarray(image)[::-1, :, ::-1].copy().reshape(h, -1), 1))
    yield "top-down-32.bmp", bmp(w, -h, 32, 0, bgrx.tobytes())
    yield "device-independent.dib", saved(image, "BMP")
    yield "large.bmp", saved(scene(600, 400, 5).resize((3000, 2000)), "BMP")
    data = saved(image, "BMP")
    yield "cut.bmp", data[:len(data) // 2]


def tiffs() -> Iterator[tuple[str, bytes]]:
    modes = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I;16B", "I", "F", "LAB")
    for i, mode in enumerate(modes):
        for size in (SIZES[i % 5], MIDDLE):
            image = scene(*size, i)
            if mode == "LAB":
                image = Image.merge("LAB", image.split())
            yield f"{mode.replace(';', '-')}-{size[0]}x{size[1]}.tif", saved(image if mode == "LAB" else in_mode(mode, image), "TIFF")
    image = scene(*MIDDLE, 10)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "jpeg", "zstd", "lzma"):
        for mode in ("L", "RGB", "RGBA", "CMYK", "P", "I;16"):
            if mode in ("L", "RGB") or compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
                yield f"{compression}-{mode.replace(';', '-')}.tif", saved(in_mode(mode, image), "TIFF", compression=compression)
    for compression in ("group3", "group4", "tiff_lzw", "packbits"):
        yield f"{compression}-1.tif", saved(image.convert("1"), "TIFF", compression=compression)
    for compression in ("tiff_lzw", "tiff_adobe_deflate"):
        yield f"{compression}-predictor.tif", saved(image, "TIFF", compression=compression, tiffinfo={317: 2})
        yield f"{compression}-predictor-16.tif", saved(in_mode("I;16", image), "TIFF", compression=compression, tiffinfo={317: 2})
    yield "jpeg-ycbcr.tif", saved(image.convert("YCbCr"), "TIFF", compression="jpeg", quality=90)
    yield "several.tif", saved(image, "TIFF", save_all=True, append_images=[scene(50, 40)])
    yield "big.tif", saved(image, "TIFF", big_tiff=True)
    for turn in range(1, 9):
        yield f"turned-{turn}.tif", saved(image, "TIFF", tiffinfo={274: turn})
    rgb, grey = np.asarray(image), np.asarray(image.convert("L"))[..., None]
    see = np.asarray(alpha(image))[..., None]
    for order, end in (("<", ""), (">", "-big-endian")):
        yield f"plain{end}.tif", tiff(rgb, 2, order)
        yield f"16-bit-rgb{end}.tif", tiff(rgb.astype("u2") * 257, 2, order)
        yield f"16-bit-grey{end}.tif", tiff(grey.astype("u2") * 2, 1, order)
        yield f"float{end}.tif", tiff(grey.astype("f4") * 1.5 - 40, 1, order, sample_format=3)
    yield "16-bit-rgba.tif", tiff(np.concatenate([rgb, see], -1).astype("u2") * 257, 2, extra=((338, 3, 2),))
    yield "16-bit-cmyk.tif", tiff(np.concatenate([rgb, see], -1).astype("u2") * 257, 5)
    yield "signed-16-bit.tif", tiff(grey.astype("i2") * 2 - 100, 1, sample_format=2)
    yield "32-bit-grey.tif", tiff(grey.astype("u4") * 3, 1)
    yield "float64.tif", tiff(grey.astype("f8") * 1.5, 1, sample_format=3)
    yield "white-is-zero.tif", tiff(grey, 0)
    yield "white-is-zero-16.tif", tiff(grey.astype("u2") * 2, 0)
    yield "tiled.tif", tiff(rgb, 2, tile=32)
    yield "tiled-grey.tif", tiff(grey, 1, tile=16)
    yield "planar.tif", tiff(rgb, 2, planar=True)
    yield "planar-tiled.tif", tiff(rgb, 2, planar=True, tile=32)
    yield "planar-rgba.tif", tiff(np.concatenate([rgb, see], -1), 2, planar=True, extra=((338, 3, 2),))
    yield "rgb-and-more.tif", tiff(np.concatenate([rgb, see], -1), 2, extra=((338, 3, 0),))
    yield "associated-alpha.tif", tiff(np.concatenate([rgb // 255 * see, see], -1), 2, extra=((338, 3, 1),))
    yield "large.tif", saved(scene(600, 400, 6).resize((3000, 2000)), "TIFF", compression="tiff_lzw")
    data = tiff(rgb, 2)
    yield "cut.tif", data[:len(data) // 2]
    whole = saved(image, "TIFF", compression="tiff_lzw")
    yield "cut-lzw.tif", whole[:8] + whole[8:len(whole) // 2]


def others() -> Iterator[tuple[str, bytes]]:
    for i, size in enumerate(SIZES[::3]):
        for mode, end in (("1", "pbm"), ("L", "pgm"), ("I;16", "pgm"), ("I", "pgm"), ("RGB", "ppm"), ("F", "pfm")):
            yield f"{mode.replace(';', '-')}-{size[0]}x{size[1]}.{end}", saved(in_mode(mode, scene(*size, i)), "PPM")
    image = scene(23, 17, 11)
    rgb, grey = np.asarray(image), np.asarray(image.convert("L"))
    numbers = lambda of: " ".join(map(str, of.ravel())).encode()
    yield "plain.ppm", b"P3\n# a comment\n23 17\n255\n" + numbers(rgb)
    yield "plain.pgm", b"P2 23 17 255\n" + numbers(grey)
    yield "plain.pbm", b"P1\n23 17\n" + numbers(grey % 2)
    yield "plain-close.pbm", b"P1\n23 17\n" + numbers(grey % 2).replace(b" ", b"")
    yield "plain-wide.pgm", b"P2 23 17 1000\n" + numbers(grey.astype(int) * 3)
    yield "fifteen.ppm", b"P6 23 17 15\n" + (rgb // 17).tobytes()
    yield "hundred.pgm", b"P5 23 17 100\n" + (grey // 3).tobytes()
    yield "wide.ppm", b"P6 23 17 65535\n" + (rgb.astype(">u2") * 257).tobytes()
    yield "thousand.ppm", b"P6 23 17 1000\n" + (rgb.astype(">u2") * 3).tobytes()
    yield "thousand.pgm", b"P5 23 17 1000\n" + (grey.astype(">u2") * 3).tobytes()
    yield "above.pgm", b"P5 23 17 100\n" + grey.tobytes()
    yield "cut.ppm", b"P6 23 17 255\n" + rgb.tobytes()[:500]
    yield "cut-plain.ppm", b"P3 23 17 255\n" + numbers(rgb)[:500]
    yield "arbitrary.pam", b"P7\nWIDTH 23\nHEIGHT 17\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n" + rgb.tobytes()
    for mode in ("RGB", "RGBA", "L", "1"):
        yield f"{mode}.ico", saved(in_mode(mode, scene(64, 64, 12)), "ICO", sizes=[(16, 16), (48, 48), (32, 32)])
    yield "bitmaps.ico", saved(in_mode("RGBA", scene(64, 64, 12)), "ICO", sizes=[(16, 16), (48, 48)], bitmap_format="bmp")
    yield "text.jpg", b"<html>404</html>"
    yield "empty.png", b""


def all_files() -> Iterator[tuple[str, bytes]]:
    """Names and bytes; a name begins with what it is about."""
    for kind, made in [("jpeg", jpegs()), ("png", pngs()), ("webp", webps()), ("gif", gifs()), ("bmp", bmps()),
                       ("tiff", tiffs()), ("other", others())]:
        for name, data in made:
            yield f"{kind}/{name}", data
