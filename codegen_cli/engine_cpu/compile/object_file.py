"""Object code -> the names it expects others to define: read before a linker sees the file.

Sources: the System V ABI (ELF-64 object file format), Apple's Mach-O headers loader.h and nlist.h.
"""

import struct

_ELF_HEADER = struct.Struct("<16s2HI3QI6H")
_ELF_SECTION = struct.Struct("<2I4Q2I2Q")
_ELF_SYMBOL = struct.Struct("<I2BH2Q")
_ELF_SYMBOL_TABLE, _ELF_UNDEFINED = 2, 0

_MACHO_HEADER = struct.Struct("<8I")
_MACHO_COMMAND = struct.Struct("<2I")
_MACHO_SYMBOL_TABLE = struct.Struct("<6I")
_MACHO_SYMBOL = struct.Struct("<I2BHQ")
_MACHO_TYPE_MASK, _MACHO_UNDEFINED, _MACHO_EXTERNAL = 0x0E, 0, 1


def undefined_symbols(data: bytes) -> set[str]:
    """Return the names that a 64-bit little-endian ELF or Mach-O object file leaves undefined.

    ValueError for any other file, and where an offset or a size leads out of the file.
    """
    try:
        if data.startswith(b"\x7fELF\x02\x01"):
            return _of_elf(data)
        if data.startswith(b"\xcf\xfa\xed\xfe"):
            return _of_macho(data)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"a damaged object file: {error}") from error
    raise ValueError("neither a 64-bit ELF nor a Mach-O object file")


def _of_elf(data: bytes) -> set[str]:
    header = _ELF_HEADER.unpack_from(data)
    offset, entry_size, count = header[6], header[11], header[12]
    sections = [_ELF_SECTION.unpack_from(data, offset + entry_size * i) for i in range(count)]
    names = set()
    for section in sections:
        if section[1] != _ELF_SYMBOL_TABLE:
            continue
        start, size, strings = section[4], section[5], section[6]
        if strings >= count:
            raise ValueError("a damaged object file: no table of names")
        for at in range(start, start + size, _ELF_SYMBOL.size):
            name, _, _, defined_in, _, _ = _ELF_SYMBOL.unpack_from(data, at)
            if defined_in == _ELF_UNDEFINED and name:
                names.add(_name(data, sections[strings][4] + name))
    return names


def _of_macho(data: bytes) -> set[str]:
    names = set()
    at = _MACHO_HEADER.size
    for _ in range(_MACHO_HEADER.unpack_from(data)[4]):
        command, size = _MACHO_COMMAND.unpack_from(data, at)
        if size < _MACHO_COMMAND.size:
            raise ValueError("a damaged object file: an empty load command")
        if command == 2:  # LC_SYMTAB
            _, _, start, count, strings, _ = _MACHO_SYMBOL_TABLE.unpack_from(data, at)
            for i in range(count):
                symbol = _MACHO_SYMBOL.unpack_from(data, start + _MACHO_SYMBOL.size * i)
                name, kind = symbol[0], symbol[1]
                if kind & _MACHO_TYPE_MASK == _MACHO_UNDEFINED and kind & _MACHO_EXTERNAL:
                    names.add(_name(data, strings + name).removeprefix("_"))
        at += size
    return names


def _name(data: bytes, start: int) -> str:
    end = data.find(b"\0", start)
    if end < 0:
        raise ValueError("a damaged object file: a name without an end")
    return data[start:end].decode("utf-8", "backslashreplace")
