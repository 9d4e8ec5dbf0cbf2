"""TFRecord files by hand, bit by bit from the published formats: a witness that shares no code.

https://protobuf.dev/programming-guides/encoding/ and RFC 3720, appendix B.4 (CRC-32C).
"""

import struct


def crc32c(content):
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked_crc32c(content):
    crc = crc32c(content)
    rotated = ((crc >> 15) | (crc << 17)) % 2**32
    return struct.pack("<I", (rotated + 0xA282EAD8) % 2**32)


def record(message):
    length = struct.pack("<Q", len(message))
    return length + masked_crc32c(length) + message + masked_crc32c(message)


def varint(number):
    number %= 2**64
    encoded = bytearray()
    while number > 127:
        encoded.append(number % 128 + 128)
        number //= 128
    return bytes([*encoded, number])


def delimited(field, content):
    return varint(field * 8 + 2) + varint(len(content)) + content


def feature(values, *, packed=True):
    """Return a Feature: bytes, floats or integers; a TensorFlow of old did not pack numbers."""
    if isinstance(values, bytes):
        return delimited(1, delimited(1, values))
    if values and isinstance(values[0], float):
        return delimited(2, delimited(1, struct.pack(f"<{len(values)}f", *values)))
    if packed:
        return delimited(3, delimited(1, b"".join(map(varint, values))))
    return delimited(3, b"".join(varint(8) + varint(value) for value in values))


def example(features, *, packed=True):
    entries = [
        delimited(1, delimited(1, name.encode()) + delimited(2, feature(values, packed=packed)))
        for name, values in features.items()
    ]
    return delimited(1, b"".join(entries))


def write(path, examples, *, packed=True):
    path.write_bytes(b"".join(record(example(one, packed=packed)) for one in examples))
    return path


def bert_features(ids, types, positions, originals, label, *, length=12, predictions=3):
    """Return the seven features as create_pretraining_data.py describes them."""
    features = {
        "input_ids": [*ids, *[0] * (length - len(ids))],
        "input_mask": [*[1] * len(ids), *[0] * (length - len(ids))],
        "segment_ids": [*types, *[0] * (length - len(ids))],
        "masked_lm_positions": [*positions, *[0] * (predictions - len(positions))],
        "masked_lm_ids": [*originals, *[0] * (predictions - len(positions))],
        "masked_lm_weights": [*[1.0] * len(positions), *[0.0] * (predictions - len(positions))],
        "next_sentence_labels": [label],
    }
    return features if label is not None else dict(list(features.items())[:-1])
