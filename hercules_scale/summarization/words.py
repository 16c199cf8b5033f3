"""Words of every script.

Text is split at Unicode word boundaries; combining marks, joiners, apostrophes and hyphens do not
divide a word. Chinese, Japanese, Thai, Lao, Khmer and Burmese have no spaces between words: there a
run of letters of one script counts as its pairs of letters.

Source: Unicode Standard Annex 29; Theeramunkong et al., "Character cluster based Thai information
retrieval" (2000), for letters of Thai and Lao that are never separated.
"""

from __future__ import annotations

import functools
import html
import itertools
import re
import unicodedata

import regex

# Longest word; longer tokens are codes.
WORD_CHARACTERS = 60

# Letters of Thai and Lao, Burmese, Khmer, Chinese, and Japanese.
_UNSPACED = (
    "\u0e01-\u0eff\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f\u1780-\u17ff"
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
)
# Letters, digits, marks and joiners.
_LETTERS = rf"[^\W_{_UNSPACED}]++"
# Hiragana that may be part of a word between two of its Han characters, as in "買い物"; particles
# are not among them.
_WITHIN = "いりきしちみびぎえけせねべめれげっ"
_KANA = r"[\p{Katakana}ー]++"
_TOKEN = regex.compile(
    "|".join(
        [
            rf"{_LETTERS}(?:['’׳״·-]{_LETTERS})*+(?:\+\+|\#(?![\w\#]))?+",
            rf"(?:\p{{Han}}|(?<=\p{{Han}})[{_WITHIN}](?=\p{{Han}}))++",
            _KANA,
            r"\p{Hiragana}++",
            *(
                rf"[\p{{{script}}}&&[\p{{L}}\p{{M}}]--[ๆฯໆ]]++"
                for script in ("Thai", "Lao", "Khmer", "Myanmar")
            ),
        ]
    ),
    regex.VERSION1,
)
# The same for ASCII text, in a fifth of the time.
_ASCII_TOKEN = re.compile(r"[A-Za-z0-9]++(?:['-][A-Za-z0-9]++)*+(?:\+\+|#(?![\w#]))?+", re.ASCII)
# Endings of English and Turkish names after an apostrophe.
_ENDING = regex.compile(r"(?<=\w{3})'.*+")
# French and Italian articles with an apostrophe before the word.
_ELISION = regex.compile(
    r"(?:[cdjlmnst]|qu|dell|nell|sull|all|un)['’](?=[aeiouhyàâéèêëîïôûœ])", regex.IGNORECASE
)
# Letters of a script without spaces that belong together: a consonant with the vowels before and
# after it, the marks above and below it, and a consonant that only ends its syllable.
_ATOM = regex.compile(
    r"[เแโใไເແໂໃໄ]?+\X\p{M}*+(?:(?<=[\u17d2\u1039])\X\p{M}*+"
    r"|[\u1000-\u1021]\u1037?+\u103a\p{M}*+"
    r"|(?<=[ั็ັົ][\u0e48-\u0e4b\u0ec8-\u0ecb]?)(?<!ก็)[ก-ฮກ-ຮ]\p{M}*+)*+[ะาๅະາຽ]?+"
)
_IS_UNSPACED = regex.compile(rf"[{_UNSPACED}]")
_IS_KANA = regex.compile(_KANA)
_LETTER = regex.compile(r"\X")
_HANGUL = regex.compile(r"\p{Hangul}++")
_OF_JAPAN = regex.compile(r"[\p{Hiragana}\p{Katakana}]")
_HAN = regex.compile(r"\p{Han}")
# Function words, at which a run is divided: first of Chinese, then of other languages.
_CHINESE = regex.compile(
    "[的了吗嗎呢吧啊们們你您我他她它是很这這那]|因为|因為|如果|但是|可以|没有|沒有|什么|什麼|怎么|怎麼|应该|應該|需要|不会|不會"
    "|不能|一[个個些次下]|哪里|哪裡|多少|请问|請問|非常|已经|已經|还是|還是|或者|而且|所以"
)
_BINDING = regex.compile(
    "(?:และ|ที่|ของ|เป็น|ได้|หรือ|แล้ว|เพื่อ|ซึ่ง|ต้อง|อยู่|ครับ|ค่ะ|ไม่|ให้|นี้|นั้น"
    "|ແລະ|ທີ່|ຂອງ|ເປັນ|ໄດ້|ຫຼື|ແລ້ວ|ບໍ່|ໃຫ້|ນີ້|និង|ដែល|របស់|នៅ|ក្នុង|ជា|នេះ"
    "|について|による|として|ための|ため|こと|もの|から|まで|など|です|ます|でした|ました|する|した|して"
    "|ください|ない|ある|いる|れる|という|および|または|これ|それ|この|その|よう|ところ|だけ|より|ので|を"
    "|နှင့်|သည်|၏|များ|သော|တွင်|ဖြစ်"
    # The match is not part of a longer syllable.
    r")(?!\p{M}|[ะาๅະາຽ]|[\u1000-\u1021]\u1037?\u103a)"
)
# Beginnings and ends of text that readers do not see.
_BLOCK = regex.compile(r"<(script|style)\b|<!--", regex.IGNORECASE)
_BLOCK_ENDS = {
    kind: regex.compile(end, regex.IGNORECASE)
    for kind, end in (
        ("script", r"</script[^<>]{0,20}+>"),
        ("style", r"</style[^<>]{0,20}+>"),
        (None, "-->"),
    )
}
_NO_TEXT = regex.compile(
    r"</?[a-z][^<>]{0,2000}+>"
    r"|(?:data:[\w/+.-]{0,100}+[;,]|(?:https?|ftp|s3|gs|file)://|www\.)[\x21-\x3b\x3d\x3f-\x7e]++"
    r"|(?<![\w.+-])[\w.+-]{1,64}+@[\w-]{1,64}+(?:\.[\w-]{1,64}+)++"
    r"|(?<![\w/+=-])(?=[a-z/+=_-]{0,200}+\d)[\w/+=-]{40,}+"
    r"|(?<![\w-])(?=[a-f-]{0,200}+\d)(?=[\d-]{0,200}+[a-f])[\da-f-]{16,}+(?!\w)",
    regex.IGNORECASE | regex.ASCII,
)
_MARKS = ("<", "&", "@", "://", "www.", "data:")
# Shortest hash.
_HASH_CHARACTERS = 16
# Codes switch often between digits and letters or between small and capital letters.
_CODE = regex.compile(r"(?:\d\p{L}.*){3}|(?:\p{Ll}\p{Lu}.*){4}|(?=.*\d)(?=.*[a-f])[0-9a-f]{12,}")
_VARIATION = regex.compile(r"[\ufe00-\ufe0f\U000e0100-\U000e01ef\u00ad]")
_WORDLIKE = regex.compile(
    rf"[\p{{L}}\p{{N}}]\p{{M}}*+[\p{{L}}\p{{N}}+\#♯]|\p{{L}}\p{{M}}|[{_UNSPACED}\p{{Hangul}}]"
)


def composed(text: str) -> str:
    """Return the text in Unicode's composed form (NFC), without variation selectors and soft
    hyphens."""
    return text if text.isascii() else str(_VARIATION.sub("", unicodedata.normalize("NFC", text)))


def prose(text: str) -> str:
    """Return the words of a text, without markup, URLs, addresses and encoded data."""
    if not any(mark in text for mark in _MARKS) and (
        max(map(len, text.split()), default=0) < _HASH_CHARACTERS
    ):
        return text
    shown = _NO_TEXT.sub(" ", _without_blocks(text))
    return str(_NO_TEXT.sub(" ", html.unescape(shown)))


def _without_blocks(text: str) -> str:
    """Return text without HTML comments, scripts and style sheets, where these are closed."""
    kept, at = [], 0
    endless = set()
    for found in _BLOCK.finditer(text):
        kind = found[1] and found[1].lower()
        if found.start() < at or kind in endless:
            continue
        end = _BLOCK_ENDS[kind].search(text, found.end())
        if end is None:
            endless.add(kind)
            continue
        kept.append(text[at : found.start()])
        at = end.end()
    return " ".join([*kept, text[at:]])


def tokens(text: str) -> list[str]:
    """Return the words of a text and its runs without spaces, in their order and spelling.

    Args:
        text: A text in composed form.
    """
    found: list[str] = (_ASCII_TOKEN if text.isascii() else _TOKEN).findall(text)
    if "'" in text or "’" in text:
        found = [
            token[leaning.end() :] if (leaning := _ELISION.match(token)) else token
            for token in found
        ]
    if text.isascii() or _IS_UNSPACED.search(text) is None:
        return found
    chinese = _OF_JAPAN.search(text) is None
    return [
        part for token in found for part in (_divided(token, chinese) if is_run(token) else [token])
    ]


def _divided(run: str, chinese: bool) -> list[str]:
    """Return the pieces of a run between function words; in Japanese without short pieces of
    kana, mostly endings."""
    if _HAN.match(run) is None:
        least = 3 if _OF_JAPAN.match(run) else 1
        return [part for part in _BINDING.split(run) if len(part) >= least]
    return [part for part in _CHINESE.split(run) if part] if chinese else [run]


def is_word(token: str) -> bool:
    """Return whether a token is a word of two letters or more, not a number, hash or other code."""
    return 1 < len(token) <= WORD_CHARACTERS and token[0].isalpha() and _CODE.search(token) is None


@functools.lru_cache(maxsize=100_000)
def fold(word: str) -> str:
    """Return the key of a word's spellings, which ignores case and the form of apostrophes."""
    if word.isascii():
        return word.lower()
    return word.casefold().replace("i\u0307", "i").replace("’", "'")


def atoms(run: str) -> list[str]:
    """Return the letters of a run, each with the letters and marks that are never separated."""
    return list(_ATOM.findall(run))


def parts(text: str) -> list[str]:
    """Return the words of a text for comparison: in small letters, and as pairs of letters in
    scripts without spaces.

    Hyphens divide words. Korean words count as pairs of syllables, since endings attach to them.
    """
    return [part for token in tokens(composed(text)) for part in _parts(token)]


def _parts(token: str) -> list[str]:
    if is_run(token):
        return _pairs(atoms(token))
    words = [_ENDING.sub("", word) for word in fold(token).split("-")]
    return words if token.isascii() else [part for word in words for part in _of_hangul(word)]


def _of_hangul(word: str) -> list[str]:
    return _pairs(list(word)) if _HANGUL.fullmatch(word) else [word]


def _pairs(letters: list[str]) -> list[str]:
    return ["".join(letters[at : at + 2]) for at in range(max(len(letters) - 1, 1))]


def is_run(token: str) -> bool:
    """Return whether a token is a run of a script without spaces, but not katakana."""
    return _IS_UNSPACED.match(token) is not None and not is_kana(token)


def is_kana(token: str) -> bool:
    """Return whether a token is a word in katakana, which letters of other scripts delimit."""
    return _IS_KANA.match(token) is not None


def has_words(text: str) -> bool:
    """Return whether a text has a word: two letters, or one that is a word or syllable by
    itself."""
    return _WORDLIKE.search(text) is not None


def n_letters(text: str) -> int:
    """Return the number of letters, each counted with its marks; at least half the number of code
    points."""
    letters = sum(1 for _ in _LETTER.finditer(text))
    return max(letters, len(text) // 2)


def cut(text: str, n_most: int) -> str:
    """Return the beginning of a text, of at most ``n_most`` letters as ``n_letters`` counts."""
    if len(text) <= n_most:
        return text
    found = itertools.islice(_LETTER.finditer(text[: 2 * n_most + 1]), n_most)
    ends = [letter.end() for letter in found if letter.end() <= 2 * n_most]
    return text[: ends[-1] if ends else n_most]
