"""Archives that say something else than they hold."""

import io
import struct
import zlib

import numpy as np


def npy(shape, array):
    """An array whose header declares another shape."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue() + array.tobytes()


def inflating(path, shape, checksum=0):
    """An npz file with one member of zeros, which really inflates to a shape: some MB for some GiB."""
    header = npy(shape, np.zeros(0, np.float32))
    size = 4 * int(np.prod(shape))
    assert size % 2**24 == 0
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = deflate.compress(header) + deflate.flush(zlib.Z_FULL_FLUSH)
    # After a full flush nothing refers back, so that one compressed block may stand any number of times.
    block = deflate.compress(bytes(2**24)) + deflate.flush(zlib.Z_FULL_FLUSH)
    data = first + block * (size // 2**24) + deflate.flush(zlib.Z_FINISH)
    name, sizes = b"points.npy", struct.pack("<III", checksum, len(data), len(header) + size)
    local = struct.pack("<IHHHHH", 0x04034B50, 20, 0, 8, 0, 0) + sizes + struct.pack("<HH", len(name), 0) + name
    central = struct.pack("<IHHHHHH", 0x02014B50, 20, 20, 0, 8, 0, 0) + sizes
    central += struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, 0) + name
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, len(central), len(local) + len(data), 0)
    path.write_bytes(local + data + central + end)
    return path
