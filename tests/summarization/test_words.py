"""Words of every script stay whole, in key phrases, in titles and where the two are compared."""

from __future__ import annotations

import json
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from hercules_scale.errors import SummaryError
from hercules_scale.stages.read_shards import _title
from hercules_scale.summarization.cluster_facts import ClusterFacts, plain_text
from hercules_scale.summarization.distinct_titles import title_key
from hercules_scale.summarization.fallback import summary_from_keyphrases
from hercules_scale.summarization.grounding import LEAST_OF_TITLE, Grounding
from hercules_scale.summarization.keyphrases import PhraseCounts, count_phrases
from hercules_scale.summarization.parsing import parse_answer, parse_titles
from hercules_scale.summarization.prompts import DESCRIPTION_CHARACTERS, TITLE_CHARACTERS
from hercules_scale.summarization.titles import clean_title
from hercules_scale.summarization.words import composed, cut, n_letters, tokens

# Of each script texts about bicycles, of which the last ones are about tea; their words are divided
# by bars where the script has no spaces. A word of each subject, and a right title of the first.
SCRIPTS: dict[str, tuple[list[str], tuple[str, str], str]] = {
    "french": (
        [
            "Le vélo de Chloé a perdu sa chaîne rouillée",
            "Réparer la chaîne d’un vélo",
            "Mon vélo grince à l’arrière",
            "Je bois du thé à la menthe",
            "Le thé vert infuse trois minutes",
            "L’eau du thé est trop chaude",
        ],
        ("vélo", "thé"),
        "Réparer la chaîne du vélo",
    ),
    "turkish": (
        [
            "İstanbul'da bisiklet tamiri nasıl yapılır",
            "Bisiklet zinciri sürekli düşüyor",
            "Eski bisiklet lastiği değişimi",
            "Demlikte çay nasıl demlenir",
            "Sıcak çay içmek güzeldir",
            "Yeşil çay tarifi",
        ],
        ("bisiklet", "çay"),
        "Bisiklet zinciri tamiri",
    ),
    "russian": (
        [
            "Как починить велосипед с ржавой цепью",
            "Цепь велосипеда постоянно слетает",
            "Мой велосипед скрипит",
            "Как заварить зелёный чай",
            "Горячий чай с лимоном",
            "Чай остыл в чашке",
        ],
        ("велосипед", "чай"),
        "Ремонт велосипедов и цепь",
    ),
    "greek": (
        [
            "Πώς φτιάχνω το ποδήλατο με τη σκουριασμένη αλυσίδα",
            "Η αλυσίδα στο ποδήλατο πέφτει",
            "Το ποδήλατο τρίζει",
            "Πράσινο τσάι με μέλι",
            "Το τσάι κρύωσε στο φλιτζάνι",
            "Ζεστό τσάι με λεμόνι",
        ],
        ("ποδήλατο", "τσάι"),
        "Ποδήλατο και αλυσίδα",
    ),
    "arabic": (
        [
            "كيف أُصلح سلسلة دراجة قديمة",
            "سلسلة دراجة تسقط دائما",
            "إطار دراجة مثقوب",
            "كوب شاي بالنعناع",
            "شاي أخضر ساخن",
            "أشرب شاي الصباح",
        ],
        ("دراجة", "شاي"),
        "إصلاح سلسلة دراجة",
    ),
    "persian": (
        [
            "زنجیر دوچرخه را تعمیر می‌کنم",
            "دوچرخه قدیمی صدا می‌دهد",
            "لاستیک دوچرخه پنچر شد",
            "چای سبز را دم می‌کنم",
            "چای داغ با نبات",
            "یک لیوان چای",
        ],
        ("دوچرخه", "چای"),
        "تعمیر زنجیر دوچرخه",
    ),
    "hebrew": (
        [
            "איך לתקן אופניים עם שרשרת חלודה",
            "שרשרת אופניים נופלת",
            "אופניים ישנים חורקים",
            "כוס תה ירוק",
            "תה חם עם נענע",
            "שתיתי תה בבוקר",
        ],
        ("אופניים", "תה"),
        "תיקון שרשרת אופניים",
    ),
    "hindi": (
        [
            "साइकिल की जंग लगी चेन कैसे ठीक करें",
            "मेरी साइकिल की चेन बार-बार उतरती है",
            "पुरानी साइकिल का टायर बदलना",
            "अदरक वाली चाय कैसे बनाएँ",
            "गर्म चाय और बिस्कुट",
            "हरी चाय पीना अच्छा है",
        ],
        ("साइकिल", "चाय"),
        "साइकिल की चेन ठीक करना",
    ),
    "bengali": (
        [
            "সাইকেল সারানো শিখুন, চেইন মরিচা ধরা",
            "পুরোনো সাইকেল চেইন পড়ে যায়",
            "লাল সাইকেল শব্দ করে",
            "আদা চা বানানো",
            "গরম চা আর বিস্কুট",
            "সবুজ চা ভালো",
        ],
        ("সাইকেল", "চা"),
        "সাইকেল চেইন সারানো",
    ),
    "tamil": (
        [
            "மிதிவண்டி சங்கிலி துருப்பிடித்தது",
            "பழைய மிதிவண்டி சத்தம் போடுகிறது",
            "மிதிவண்டி சங்கிலி கழன்று விழுகிறது",
            "இஞ்சி தேநீர் செய்முறை",
            "சூடான தேநீர் குடித்தேன்",
            "பச்சை தேநீர் நல்லது",
        ],
        ("மிதிவண்டி", "தேநீர்"),
        "மிதிவண்டி சங்கிலி",
    ),
    "korean": (
        [
            "녹슨 자전거 체인을 고치는 방법",
            "자전거 체인이 자꾸 빠져요",
            "오래된 자전거 타이어 교체",
            "따뜻한 녹차 한 잔",
            "녹차 우리는 시간",
            "아침에 녹차 마시기",
        ],
        ("자전거", "녹차"),
        "자전거 체인 교체",
    ),
    "chinese": (
        [
            "我|的|自行车|链条|生锈|了，怎么|修理",
            "修理|旧|自行车",
            "买|一|辆|新|自行车",
            "这|杯|绿茶|很|好喝",
            "怎么|泡|绿茶",
            "绿茶|凉|了",
        ],
        ("自行车", "绿茶"),
        "自行车修理",
    ),
    "japanese": (
        [
            "自転車|の|チェーン|が|錆びた|ので|修理|する",
            "古い|自転車|の|修理|方法",
            "自転車|の|チェーン|が|外れた",
            "温かい|緑茶|を|飲む",
            "緑茶|の|淹れ方",
            "冷たい|緑茶|が|好き",
        ],
        ("自転車", "緑茶"),
        "自転車の修理とチェーン",
    ),
    "thai": (
        [
            "ซ่อม|จักรยาน|เก่า",
            "โซ่|จักรยาน|หลุด",
            "ขี่|จักรยาน|ไป|ทำงาน",
            "ดื่ม|น้ำชา|ร้อน",
            "ชง|น้ำชา|อย่างไร",
            "แก้ว|น้ำชา|แตก",
        ],
        ("จักรยาน", "น้ำชา"),
        "ซ่อมจักรยาน",
    ),
    "lao": (
        [
            "ສ້ອມແປງ|ລົດຖີບ|ເກົ່າ",
            "ໂສ້|ລົດຖີບ|ຫຼຸດ",
            "ຂີ່|ລົດຖີບ|ໄປ|ຕະຫຼາດ",
            "ດື່ມ|ນ້ຳຊາ|ຮ້ອນ",
            "ຈອກ|ນ້ຳຊາ|ແຕກ",
            "ມັກ|ນ້ຳຊາ|ຂຽວ",
        ],
        ("ລົດຖີບ", "ນ້ຳຊາ"),
        "ສ້ອມແປງລົດຖີບ",
    ),
    "khmer": (
        [
            "ជួសជុល|ទោចក្រយាន|ចាស់",
            "ច្រវាក់|ទោចក្រយាន|របូត",
            "ជិះ|ទោចក្រយាន|ទៅ|ផ្សារ",
            "ផឹក|តែបៃតង|ក្ដៅ",
            "ពែង|តែបៃតង|បែក",
            "ចូលចិត្ត|តែបៃតង|ត្រជាក់",
        ],
        ("ទោចក្រយាន", "តែបៃតង"),
        "ជួសជុលទោចក្រយាន",
    ),
    "burmese": (
        [
            "စက်ဘီး|ပြင်|နည်း",
            "ချိန်းကြိုး|စက်ဘီး|ပြုတ်",
            "အဟောင်း|စက်ဘီး|စီး",
            "လက်ဖက်ရည်|သောက်|ချိန်",
            "ပူ|လက်ဖက်ရည်|ခွက်",
            "အစိမ်း|လက်ဖက်ရည်|ကြိုက်",
        ],
        ("စက်ဘီး", "လက်ဖက်ရည်"),
        "စက်ဘီးပြင်",
    ),
}
CLUSTERS = np.array([0, 0, 0, 1, 1, 1] * 3, np.int32)
LEVEL = np.arange(2, dtype=np.int32)


def texts_of(script: str, form: str = "NFC") -> list[str]:
    written = [text.replace("|", "") for text in SCRIPTS[script][0]] * 3
    return [unicodedata.normalize(form, text) for text in written]  # type: ignore[arg-type]


def whole_words(script: str, phrase: str) -> bool:
    """Whether a phrase is words of one of the texts, as they stand there."""
    for text in SCRIPTS[script][0]:
        if "|" in text:
            words = regex.split("[|，]", text)
            if any(
                phrase == "".join(words[start:end])
                for start in range(len(words))
                for end in range(start + 1, len(words) + 1)
            ):
                return True
        words = [word.rpartition("’")[2] for word in regex.split(r"[\s,]+", text.casefold())]
        if set(phrase.casefold().split()) <= {*words, *text.casefold().split()}:
            return True
    return False


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_key_phrases_are_whole_words_of_the_items(script: str, form: str) -> None:
    counts = PhraseCounts(count_phrases(texts_of(script, form), CLUSTERS), 2)
    found = counts.of_level(LEVEL, 8)
    for phrases, word in zip(found, SCRIPTS[script][1], strict=True):
        assert phrases
        assert any(word in phrase for phrase in phrases), phrases
        broken = [phrase for phrase in phrases if not whole_words(script, phrase)]
        assert broken == []


def test_letters_that_stand_together_once_or_by_chance_are_no_phrase() -> None:
    texts = [
        # The same letters end words that are not the same.
        *("ซ่อมเบรกจักรยาน", "แบตเตอรี่จักรยานเสื่อม", "ยางรถจักรยานรั่วมากวันนี้", "ล้างจักรยานไฟฟ้า"),
        *("龙井绿茶香味浓", "泡绿茶水温", "绿茶价格高", "红茶绿茶区别"),
        *("りんごの皮をむく方法", "青森のりんごは甘い", "りんごを買った", "りんごはどのくらい"),
    ]
    counts = PhraseCounts(count_phrases(texts, np.repeat(np.arange(3, dtype=np.int32), 4)), 3)
    found = counts.of_level(np.arange(3, dtype=np.int32), 8)
    assert found == [["จักรยาน"], ["绿茶"], ["りんご"]]


def facts_of(script: str) -> list[ClusterFacts]:
    texts = texts_of(script)
    counts = PhraseCounts(count_phrases(texts, CLUSTERS), 2)
    return [
        ClusterFacts(1, cluster, 9, phrases, texts[3 * cluster : 3 * cluster + 3])
        for cluster, phrases in enumerate(counts.of_level(LEVEL, 8))
    ]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_right_title_of_the_model_is_taken_and_a_wrong_one_is_not(script: str, form: str) -> None:
    bicycles, tea = facts_of(script)
    title = unicodedata.normalize(form, SCRIPTS[script][2])  # type: ignore[arg-type]
    answer = json.dumps({"title": title, "description": bicycles.exemplars[0]})
    summary = parse_answer(answer, bicycles)
    assert (summary.title, summary.status) == (composed(title), "ok")
    assert parse_titles(json.dumps({"0": title}), [bicycles]) == {0: composed(title)}

    counts = PhraseCounts(count_phrases(texts_of(script), CLUSTERS), 2)
    said = counts.words_of_level(LEVEL, np.array([9.0, 9.0]))
    grounding = Grounding(said, [bicycles, tea], None)
    assert grounding.problem(0, "title", summary.title, LEAST_OF_TITLE) == ""
    assert grounding.problem(1, "title", summary.title, LEAST_OF_TITLE) != ""


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_title_of_key_phrases_is_short_and_of_whole_words(script: str) -> None:
    for facts in facts_of(script):
        title = summary_from_keyphrases(facts, "").title
        assert 0 < n_letters(title) <= TITLE_CHARACTERS
        assert all(whole_words(script, phrase) for phrase in title.split(", ")), title


@pytest.mark.parametrize("script", ["french", "russian", "greek", "arabic", "hebrew", "hindi"])
def test_words_are_those_of_unicode_segmentation(script: str) -> None:
    for text in map(composed, texts_of(script)):
        pieces = regex.split(r"\b", text, flags=regex.WORD | regex.VERSION1)
        expected = [piece for piece in pieces if regex.match(r"\w", piece)]
        # Hyphens join words here, and French articles are no part of them.
        found = [part for token in tokens(text) for part in token.split("-")]
        assert found == [word.rpartition("’")[2] for word in expected]


@given(st.text(st.characters(max_codepoint=127)))
@settings(deadline=None, max_examples=200)
def test_words_of_ascii_are_those_among_other_letters(text: str) -> None:
    assert tokens(f"é {text}")[1:] == tokens(text)


@pytest.mark.parametrize("title", ["C++", "C#", "足球", "चाय", "茶", "گل", "R2"])
def test_short_titles_of_any_script_are_titles(title: str) -> None:
    facts = ClusterFacts(1, 0, 9, [title], [title])
    answer = json.dumps({"title": title, "description": f"{title} {title}x."})
    assert parse_answer(answer, facts).title == title


@pytest.mark.parametrize("unit", ["足球比赛", "จักรยาน", "साइकिल", "Z\u0310\u0311\u0312"])
def test_titles_without_spaces_are_cut_between_letters(unit: str) -> None:
    for title in (clean_title(unit * 200), _title(unit * 200).rstrip("…")):
        assert 0 < n_letters(title) <= 80
        assert regex.fullmatch(r"\X+", title)
        assert (
            regex.findall(r"\X", title)
            == regex.findall(r"\X", unit * 200)[: len(regex.findall(r"\X", title))]
        )
    assert n_letters(clean_title(unit * 200)) <= TITLE_CHARACTERS
    assert cut("e\u0301" * 9, 3) == "e\u0301" * 3


def test_sentences_of_any_script_end_a_title_of_an_item_and_a_description() -> None:
    assert _title("自行车坏了。怎么修理？") == "自行车坏了"
    assert _title("साइकिल खराब है। क्या करें?") == "साइकिल खराब है।"
    sentences = "自行车的链条生锈了，需要修理才能继续使用。绿茶很好喝，每天早上都要喝一杯。" * 20
    answer = json.dumps({"title": "自行车", "description": sentences[:300]})
    facts = ClusterFacts(1, 0, 9, ["自行车"], [sentences])
    with pytest.raises(SummaryError, match="repeats itself"):
        parse_answer(answer, facts)
    varied = "".join(
        f"第{number}章讲的是{chr(0x4E00 + 37 * number)}的故事。" for number in range(40)
    )
    found = parse_answer(json.dumps({"title": "故事", "description": varied}), facts).description
    assert found.endswith("。")
    assert len(found) <= DESCRIPTION_CHARACTERS


def test_joiners_stay_within_words_and_marks_with_their_letters() -> None:
    assert plain_text("می\u200cخواهم") == "می\u200cخواهم"
    assert plain_text("क्\u200dष") == "क्\u200dष"
    assert plain_text("Che\u0301ne Fuß\u00adball") == "Chéne Fußball"
    assert plain_text("<|im_\u200dend|> a\u200db") == "a b"


NOISE = [
    '<div class="card"><a href="https://x.org/a?b=c">{}</a>&nbsp;</div><style>p{{color:red}}</style>',
    "{} https://example.org/path/to?session=abcdef www.example.org/login me@example.org",
    "{} iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAAHElEQVQI12P4//8/w38GIAXDIBKE0DHxgljNBAAO",
    "{} data:image/png;base64,iVBORw0KGgo= d41d8cd98f00b204e9800998ecf8427e",
    "{} 123e4567e89b12d3a456426614174000 aGVsbG8gd29ybGQgaGVsbG8K",
    "<script>var session = 1;</script>{}<!-- hidden words -->",
]


def test_no_markup_encoding_hash_or_address_is_a_phrase() -> None:
    texts = [noise.format(text) for noise in NOISE for text in ("red kite", "blue kite")]
    counts = PhraseCounts(count_phrases(texts, np.zeros(len(texts), np.int32)), 1)
    assert counts.of_level(np.zeros(1, np.int32), 8) == [["blue kite", "red kite"]]


@pytest.mark.parametrize("noise", [*NOISE[:4], "{} " + "A1b2" * 3_000])
def test_a_cluster_without_phrases_has_a_short_title_without_noise(noise: str) -> None:
    for text, title in (("red kite", "red kite"), ("", "Cluster 1/4")):
        facts = ClusterFacts(1, 4, 9, [], [noise.format(text)])
        assert summary_from_keyphrases(facts, "no phrases").title == title


def test_words_are_spelled_as_most_items_spell_them() -> None:
    texts = [
        "Fixing the NASA rover in Python",
        "A rover of NASA and an iPhone",
        "Rover parts from İzmir",
        "the iPhone and python, nasa's rover",
    ]
    table = count_phrases(texts * 2, np.zeros(8, np.int32))
    words = {phrase for phrase in table["phrase"].to_pylist() if " " not in phrase}
    assert {"NASA", "rover", "iPhone", "İzmir", "python", "Fixing"} <= words
    # Of parts that spell a phrase in two ways the commoner spelling stands for both.
    parts = [["Rover"], ["rover", "rover"]]
    tables = [count_phrases(part, np.zeros(len(part), np.int32)) for part in parts]
    joined = PhraseCounts(pa.concat_tables(tables), 1)
    assert joined.of_level(np.zeros(1, np.int32), 8) == [["rover"]]


def test_stop_words_are_those_of_the_language_of_a_text() -> None:
    texts = ["Die Kette ist alt und der Sattel auch", "Ich habe die Kette nicht"] * 5
    found = set(count_phrases(texts, np.zeros(10, np.int32))["phrase"].to_pylist())
    assert {"Kette", "Sattel"} <= found
    assert not {"die", "Die", "der", "und", "ist", "ich", "nicht"} & found
    # The same word is one of a subject elsewhere.
    english = count_phrases(["cats die of the war"] * 3, np.zeros(3, np.int32))
    assert {"die", "war"} <= set(english["phrase"].to_pylist())


def test_titles_that_differ_in_marks_or_signs_are_not_alike() -> None:
    assert title_key("चाय") != title_key("चीय")
    assert title_key("C++") != title_key("C#")
    assert title_key("茶") != title_key("酒")
