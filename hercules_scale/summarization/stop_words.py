"""Stop words of many languages: words without content."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Sequence

from hercules_scale.summarization.words import composed, fold, tokens

# Texts from which the main language of a collection is detected.
TEXTS_READ = 1_000

# Stop words by language; for English in addition to those in scikit-learn.
_WORDS = {
    "en": (
        "can't couldn't didn't doesn't don't hadn't hasn't haven't he'll he's i'd i'll i'm i've "
        "isn't it'll it's let's she'll she's shouldn't that's there's they'll they're they've "
        "wasn't we'll we're we've weren't what's where's who's won't wouldn't you'd you'll "
        "you're you've"
    ),
    "fr": (
        "alors au aucun aussi autre aux avec avoir bien car ce cela ces cet cette comme comment "
        "dans de depuis des donc du elle elles en est et été être eu fait font il ils je la le "
        "les leur leurs lui ma mais me même mes moins mon ne nos notre nous on ont ou où par "
        "pas peu peut plus pour pourquoi qu quand que quel quelle qui sa sans se ses si son "
        "sont sous sur ta te tes ton tous tout toute toutes très trop tu un une vos votre vous "
        "y à"
    ),
    "de": (
        "aber alle als also am an auch auf aus bei bin bis bist da das dass dein dem den der "
        "des dich die dies diese dieser dieses dir doch dort du durch ein eine einem einen "
        "einer eines er es etwas für gegen hab habe haben hat hatte hier ich ihm ihn ihr ihre "
        "im in ist ja jede jeder kann kein keine können man mehr mein meine mich mir mit muss "
        "nach nicht nichts noch nur ob oder ohne sehr sein seine sich sie sind so über um und "
        "uns unser unter vom von vor war waren warum was wann wegen weil wenn wer werden wie "
        "wieder wir wird wo wurde zu zum zur zwischen"
    ),
    "es": (
        "al algo como con contra cual cuando de del desde donde dos el ella ellas ellos en "
        "entre era es esa ese eso esta está están este esto estos fue ha hace hasta hay la las "
        "le les lo los más me mi mis mucho muy nada ni no nos nosotros o otra otro para pero "
        "poco por porque que qué quien se sea ser si sí sin sobre son su sus también te tiene "
        "todo todos tu un una uno unos y ya yo cómo"
    ),
    "pt": (
        "ao aos as até com como da das de dela dele depois do dos e é ela elas ele eles em "
        "entre era essa esse esta está estão este eu foi há isso isto já lhe mais mas me mesmo "
        "meu minha muito na não nas nem no nos nós o os ou para pela pelo por porque qual "
        "quando que quem se sem ser seu sua são só também te tem um uma umas uns você vocês à "
        "às"
    ),
    "it": (
        "a ad agli ai al alla alle allo anche c che chi ci come con così cosa cui da dal dalla "
        "dalle degli dei del della delle dello di dopo dove e ed è era essere fra gli ha hanno "
        "ho i il in io l la le lei li lo loro lui ma mi mia mio molto ne nei nel nella non noi "
        "nostro o ogni per perché più poi può qual quale quando quella quello questa questo qui "
        "se sei si sia sono su sua sue sul sulla suo suoi te ti tra tu tutti tutto un una uno "
        "vi voi"
    ),
    "nl": (
        "aan al als altijd bij dan dat de der deze die dit doch doen door dus een en er ge geen "
        "had heb heeft hem het hier hij hoe hun ik in is ja je kan kon kunnen maar me meer men "
        "met mij mijn moet na naar niet niets nog nu of om omdat ons ook op over te tegen tot u "
        "uit van veel voor waar waren was wat we wel werd wie wij wil worden zal ze zei zich "
        "zij zijn zo"
    ),
    "sv": (
        "alla allt att av blev bli de dem den denna deras dess det detta dig din du där efter "
        "eller en ett från för ha hade han hans har henne hennes hon honom hur här i icke inte "
        "ja jag kan kunde man med mellan men mig min mot mycket nu när någon något några och om "
        "oss på sig sin ska som så till under upp ut utan vad var vi vid vilken är över"
    ),
    "da": (
        "af alle at blev blive da de dem den denne der deres det dette dig din disse dog du "
        "efter eller en end er et for fra ham han hans har have hende hendes her hun hvad hvis "
        "hvor hvordan i ikke ind jeg jer kan kunne man mange med meget men mig min mod ned "
        "noget nogle nu når og også om op os over på sig sin skal som sådan til ud under var "
        "ved vi vil være å"
    ),
    "pl": (
        "a aby albo ale ani bardzo bez bo być był była było były ci co czy dla do gdy gdzie go "
        "i ich ile im inne ja jak jako je jego jej jest jestem jeśli już każdy kiedy kto która "
        "które który lub ma mam mi mnie moje może my na nad nam nas nie niż o od on ona ono "
        "oraz po pod ponieważ przed przez przy się są ta tak także tam te tego tej ten to tu "
        "tylko tym ty w we wszystko z za ze że żeby"
    ),
    "cs": (
        "a aby ale ani ano asi až bez by byl byla bylo být co což či do i já jak jako je jeho "
        "její jejich jen ještě ji jsem jsi jsme jsou k kde kdo kdy když která které který má mé "
        "mezi mi mít může my na nad nebo není než nic o od on ona oni pak po pod podle pokud "
        "pro proč před při s se si své tak také takže tam ten to tu ty u už v ve více všechny "
        "vy z za ze že"
    ),
    "ru": (
        "а без более бы был была были было быть в вам вас во вот все всё вы где да для до его "
        "ее её если есть еще ещё же за здесь и из или им их к как какой когда кто ли меня мне "
        "мой мы на над надо нас не него нет ни но ну о об он она они оно от очень по под при "
        "про с себя со так также такой там тебя то того тоже только тот ты у уже чем что чтобы "
        "эта эти это этот я моя мои который которая которые"
    ),
    "uk": (
        "а але без би був була були було бути в вам вас вже ви від він вона вони воно все всі "
        "де для до дуже є ж за зі з і із її їй їх й його коли ли лише мені ми моя мій на над "
        "нам нас не немає ні нього о об от по під після при про с себе та так також там те то "
        "того тому тут у це цей ця ці чи що щоб я як який яка які"
    ),
    "tr": (
        "acaba ama ancak bana bazı belki ben beni benim bir biri birkaç biz bize bizim bu buna "
        "bunu bütün çok çünkü da daha de değil diye en gibi göre hem hep her hiç için ile ise "
        "kadar kez ki kim mi mı mu mü nasıl ne neden o olan olarak oldu olduğu olur ona onlar "
        "onu onun sen siz şey şu tüm var ve veya ya yani yok"
    ),
    "el": (
        "αλλά αν από αυτά αυτή αυτό αυτός για δε δεν εγώ εδώ είναι εκεί εμείς ένα ένας εσύ έχει "
        "έχω ή η ήταν θα και κι κατά με μας μετά μη μην μια μία μου να ο οι όταν ότι πιο πολύ "
        "πως που προς σας σαν σε στα στη στην στις στο στον στους τα τη την της τι τις το τον "
        "του τους των ως πώς όπως χωρίς"
    ),
    "ar": (
        "أن أو أي إذا إلا إلى إن أنا أنت التي الذي الذين الى ان او بعد بل بين تم ثم حتى حيث "
        "خلال ذلك عن عند على علي غير فقط في فيه فيها قال قبل قد كان كانت كل كما كيف لا لأن لكن "
        "لم لن له لها ليس ما متى مع من منذ منه منها نحن نعم هذا هذه هل هم هناك هو هي و وقد وكان "
        "ولا وهو وهي يا يكون"
    ),
    "fa": (
        "از است اگر اما آن آنها این با باید بر برای بود بودن به بی پس تا تو چه چرا چند چون خود "
        "در دو را شد شده شما شود کرد کردن کرده کند کنم که ما من می نه نیست نیز ها هر هم همه "
        "همین و هست هستند یا یک چگونه"
    ),
    "ur": (
        "اس اپنے اپنی اور ان ایک بہت بھی تک تھا تھی تھے جا جو جس سے کا کر کرنا کرنے کو کہ کی کے "
        "کیا کیسے گیا لیے میرا میری میں نہیں نے ہم ہو ہوں ہی ہے ہیں وہ پر یہ یا"
    ),
    "he": (
        "את אני אבל או אולי אחרי איך איפה אל אם אנחנו אשר אתה בו בין בלי גם הוא היא היה היו הם "
        "הן הזה הזאת זאת זה זו יש כי כל כמו כן כש לא לי לו לה למה מאוד מה מי מן מתי עד על עם רק "
        "של שלי שלך שלו שלה שם אין"
    ),
    "hi": (
        "अपना अपनी अपने अब अभी आप इस इसका इसके इसी उन उनका उनके उस उसका उसके एक एवं और कई कब "
        "कभी कर करता करती करते करना करने करें कहाँ कहा का कि किया किस किसी की कुछ के कैसे को "
        "कोई कौन क्या क्यों गई गए गया चाहिए जब जा जाता जाती जाते जाने जैसे जो तक तथा तब तो था "
        "थी थे दिया दी द्वारा न नहीं ने पर फिर बहुत बाद भी मुझे मेरा मेरी मेरे मैं में यदि यह "
        "यहाँ या ये रहा रही रहे लिए ले वह वाला वाली वाले वे व सकता सकते सब साथ से हम हमारे ही "
        "हुआ हुई हुए हूँ है हैं हो होता होती होते होना होने"
    ),
    "mr": (
        "आणि आहे आहेत असे असा अशी आम्ही आपण एक का काय की कसे करणे करून च जर जे ज्या तर ती ते तो "
        "त्या त्याचे त्यांनी नाही नये पण पर मी मध्ये माझा माझी माझे म्हणून या यांनी व वर ही हे "
        "हा होते होता होती साठी सर्व"
    ),
    "bn": (
        "অনেক আছে আপনার আমরা আমার আমি আর আরও ই উপর এ এই এক একটি এবং এর ও কখন করতে করা করে করেন "
        "কি কিছু কিন্তু কী কে কেন কোন খুব ছিল জন্য তবে তা তাই তার তারা তিনি তুমি তো থেকে দিয়ে "
        "না নেই পর পর্যন্ত বা বলে মত মধ্যে যখন যদি যা যে সঙ্গে সব সে সেই হবে হয় হয়ে কীভাবে"
    ),
    "ta": (
        "அது அதன் அந்த அல்லது அவர் அவள் அவன் ஆகும் ஆனால் இது இதன் இந்த இல்லை இருந்து உள்ள "
        "உள்ளது எந்த எப்படி எப்போது என என்ற என்று என்ன என் எனது எனக்கு ஏன் ஒரு கொண்டு தான் நாம் "
        "நான் நீங்கள் பற்றி போது மற்றும் மிகவும் மேலும் வரை வேண்டும்"
    ),
    "te": (
        "అది అదే అని అయితే ఆ ఇది ఇక ఈ ఉంది ఉన్న ఎందుకు ఎప్పుడు ఎలా ఏ ఏమి ఒక కాదు కానీ కూడా కోసం "
        "గా చాలా తన తో నా నాకు నేను మరియు మన మీ మీరు మేము లేదా లేదు లో వారు"
    ),
    "id": (
        "ada adalah agar akan aku anda apa apakah atau bagaimana bagi bahwa banyak belum bisa "
        "dalam dan dapat dari dengan di dia hanya harus ia ini itu jika juga kami kamu karena "
        "ke kita lagi lebih mereka oleh pada saat saja sangat saya sebagai sebuah secara "
        "seperti serta sudah tapi telah tentang tidak untuk yang"
    ),
    "vi": (
        "ai anh bạn bị bởi các cái cho chỉ chưa chúng có cũng của cùng do đã đang đây để đến đó "
        "được em gì hay hơn khi không là làm lại lên lúc mà mình mỗi một mới nào này nên nếu "
        "ngay như nhưng những nó nữa phải qua ra rất rồi sao sau sẽ ta tại thế theo thì tôi "
        "trong trên từ và vào vẫn vậy về vì với vừa"
    ),
    "ko": (
        "것 것은 것이 그 그것 그녀 그는 그들 그리고 그러나 그런 나 나는 내 너 너무 "
        "는 다 다른 더 도 를 매우 모든 및 수 수가 어떤 어떻게 없는 없다 에서 왜 "
        "우리 을 의 이 이것 이런 있는 있다 있습니다 입니다 저 저는 제 좀 하고 하는 "
        "한 할 합니다 해서 또는 때 때문에 대한 위해"
    ),
}


@functools.cache
def of_language(language: str) -> frozenset[str]:
    """Return the stop words of a language, folded."""
    words = frozenset(map(fold, composed(_WORDS[language]).split()))
    if language != "en":
        return words
    # scikit-learn takes a second to load.
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return words | frozenset(ENGLISH_STOP_WORDS)


@functools.cache
def _languages() -> dict[str, tuple[str, ...]]:
    """Return the languages that have each stop word."""
    found: dict[str, tuple[str, ...]] = {}
    for language in _WORDS:
        for word in of_language(language):
            found[word] = (*found.get(word, ()), language)
    return found


class StopWords:
    """Stop words by the detected language of each text.

    Args:
        texts: The collection; its main language is used for texts that are too short to detect.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        hits: Counter[str] = Counter()
        for text in texts[:TEXTS_READ]:
            own = self._hits(map(fold, tokens(composed(text))))
            hits.update(own)
        self._main = _first(hits, "en")

    def of_text(self, words: set[str]) -> frozenset[str]:
        """Return the stop words of a text's language.

        Args:
            words: Words of the text, folded.
        """
        return of_language(self.language(words))

    def language(self, words: set[str]) -> str:
        """Return the code of a text's language, such as ``en``.

        Args:
            words: Words of the text, folded.
        """
        hits = self._hits(words)
        own = _first(hits, self._main)
        # One stop word of another language proves little: "die" is English too.
        if hits[own] <= hits[self._main] + 1:
            own = self._main
        return own

    @staticmethod
    def _hits(words: Iterable[str]) -> Counter[str]:
        languages = _languages()
        return Counter(
            language for word in set(words) if word in languages for language in languages[word]
        )


def _first(hits: Counter[str], otherwise: str) -> str:
    """Return the language with the most hits; ``otherwise`` wins ties, and without any hits."""
    if not hits:
        return otherwise
    return max(hits, key=lambda language: (hits[language], language == otherwise))
