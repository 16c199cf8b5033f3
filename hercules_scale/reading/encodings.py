"""Encodings of text files, detected from their first bytes."""

from __future__ import annotations

import codecs
import itertools
import re
from collections import Counter

MARKS = {
    codecs.BOM_UTF8: "utf-8",
    # UTF-32 comes before UTF-16, since its mark begins with the mark of UTF-16.
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Fewer bytes than this that are not UTF-8 are damage, and are rejected with their rows.
FEWEST_FOREIGN = 5
# Largest number of bytes that the detector gets, from lines with bytes beyond ASCII.
DETECTED_BYTES = 16 * 2**10
# Encodings that programs on Windows write, by the encodings that detectors take them for.
WINDOWS = {
    **dict.fromkeys(("shift_jis", "shift_jis_2004", "shift_jisx0213"), "cp932"),
    **dict.fromkeys(("gb2312", "gbk"), "gb18030"),
    "big5": "cp950",
    "euc_kr": "cp949",
}
# Encodings of Latin letters, which detectors confuse; the first is preferred.
LATIN = ("cp1252", "cp1250", "iso8859_2", "cp1254", "cp1257", "cp850", "cp852", "mac_roman")
# Letters beyond ASCII, by language. A text should have letters of one language only.
LETTERS = tuple(
    map(
        frozenset,
        (
            *("äöüß", "éèêëàâçîïôûùœæÿ", "áéíñóúü", "áâãàçéêíóôõúü", "àèéìíòóùú", "åäöé", "æøåé"),
            *("áéíóúýþæöð", "éëïóöèáü", "áčďéěíňóřšťúůýž", "áäčďéíĺľňóôŕšťúýž", "ąćęłńóśźż"),
            *("áéíóöőúüű", "čćđšž", "ăâîșțşţ", "çğıi̇öşüâîû", "ąčęėįšųūž", "āčēģīķļņšūž", "äöõüšž"),
        ),
    )
)
# Marks beyond ASCII in any of these languages.
MARKS_OF_TEXT = set("‘’“”„‚–—…•€£¥§°±²³µ«»©®™¡¿´·¼½¾ªº×÷\xa0")
# Share of letters by which another encoding must fit better than the first.
BETTER = 0.02
# Share of fitting letters from which a Latin encoding is taken, whatever the detector says.
FITS_ANYWAY = 0.95


def foreign_word(text: str) -> str:
    """Return a word with a character beyond ASCII, preferably of letters alone; empty if there is
    none."""
    words = re.findall(r"[^\W\d_]{3,20}", text) + re.findall(r"\S{1,20}", text)
    foreign = (word for word in words if not word.isascii())
    return max(itertools.islice(foreign, 20), key=len, default="")


def decoded(head: bytes, encoding: str) -> str:
    """Return the beginning of a file as text, without a byte order mark."""
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    return decoder.decode(head).removeprefix("\ufeff")


def detect_encoding(head: bytes, whole: bool = True, of_csv: bool = False) -> str:
    """Return the encoding of a text by its first bytes."""
    for mark, name in MARKS.items():
        if head.startswith(mark):
            return name
    if wide := _wide(head):
        return wide
    if not whole:
        # The end may be cut within a character.
        head = head[: head.rfind(b"\n") + 1] or head[:-3]
    text = head.decode("utf-8", "replace")
    foreign = text.count("\ufffd")
    known = sum(not char.isascii() for char in text) - foreign if foreign else 0
    # Names of columns must be readable, even if they have few such bytes.
    named = of_csv and "\ufffd" in text.partition("\n")[0] and not known
    if (foreign < FEWEST_FOREIGN and not named) or known >= foreign:
        return "utf-8"
    return _legacy(head)


def _wide(head: bytes) -> str:
    """Return UTF-16 or UTF-32 by the zero bytes of ASCII in a text without a mark; else empty."""
    if len(head) < 4:
        return ""
    share = [head[place::4].count(0) / len(head[place::4]) for place in range(4)]
    if min(share[1:]) > 0.9 > share[0]:
        return "utf-32-le"
    if min(share[:3]) > 0.9 > share[3]:
        return "utf-32-be"
    odd, even = (share[1] + share[3]) / 2, (share[0] + share[2]) / 2
    if odd > 0.3 and even < 0.05:
        return "utf-16-le"
    return "utf-16-be" if even > 0.3 and odd < 0.05 else ""


def _legacy(head: bytes) -> str:
    """Return a legacy encoding, chosen by a detector and by the letters of languages."""
    from charset_normalizer import from_bytes

    lines = [line for line in head.splitlines() if not line.isascii()]
    text = b"\n".join(lines)[:DETECTED_BYTES]
    found = from_bytes(text).best()
    name = found.encoding if found is not None else "latin_1"
    of_windows = WINDOWS.get(name, name)
    name = of_windows if _decodes(head, of_windows) else name
    alphabets = found.alphabets if found is not None else []
    latin = all(
        each.startswith(("Basic Latin", "Latin", "General", "Control")) for each in alphabets
    )
    fits = {encoding: _fit(text, encoding) for encoding in LATIN}
    best = max(fits, key=lambda encoding: fits[encoding])
    if not (latin or name in LATIN or fits[best] >= FITS_ANYWAY):
        return name
    best = best if fits[best] > fits[LATIN[0]] + BETTER else LATIN[0]
    return best if best != "cp1252" or _decodes(head, best) else "latin_1"


def _decodes(text: bytes, encoding: str) -> bool:
    try:
        text.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _fit(text: bytes, encoding: str) -> float:
    """Return the share of letters beyond ASCII that one language has; -1 if the bytes do not
    decode."""
    if not _decodes(text, encoding):
        return -1.0
    counts = Counter(char.lower() for char in text.decode(encoding) if not char.isascii())
    for mark in MARKS_OF_TEXT:
        counts.pop(mark, None)
    known = max(sum(counts[char] for char in letters) for letters in LETTERS)
    return known / counts.total() if counts else 1.0
