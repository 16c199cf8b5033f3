"""Words of every script stay whole, in key phrases, in titles and where the two are compared."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
import regex

from hercules_scale.summarization.keyphrases import PhraseCounts, count_phrases

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
