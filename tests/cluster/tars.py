"""Writes WebDataset tars of pictures that take a while to decode. Those of the last are no pictures."""

import io
import os
import struct
import sys
import tarfile
import zlib

TARS, PER_TAR, CLASSES, WIDTH, HEIGHT = 8, 120, 24, 900, 600


def png(label, number):
    """A picture of a class: stripes of its own width and colour, moved by `number`."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    wide = 10 + 5 * label
    row = bytes(
        channel
        for x in range(WIDTH)
        for channel in (((x + 7 * number) // wide % 2) * 200, label * 10, (x * (number % 5 + 1)) % 256)
    )
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row for _ in range(HEIGHT))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


def main(directory):
    os.makedirs(directory)
    pictures = {(label, number): png(label, number) for label in range(CLASSES) for number in range(4)}
    for number in range(TARS):
        with tarfile.open(f"{directory}/{number:03}.tar", "w") as tar:
            for i in range(PER_TAR):
                label = i % CLASSES
                picture = pictures[label, (i // CLASSES + number) % 4]
                if number == TARS - 1:
                    picture = b"\x89PNG\r\n\x1a\n" + bytes(500)
                for extension, data in (("png", picture), ("cls", f"class {label}".encode())):
                    member = tarfile.TarInfo(f"{number:03}-{i:04}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


main(sys.argv[1])
