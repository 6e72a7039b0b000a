# ruff: noqa: E501 - word lists read best as they stand
"""Greetings, thanks and farewells in the twelve languages of Llama 4, answered in the same language."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4_local.nano.training.data.wording import worded

if TYPE_CHECKING:
    from random import Random

    from llama4_local.nano.training.data.sample import Exchange

# Per language: greetings, "how are you", thanks, farewells, then nano's four answers.
_PHRASES: dict[str, tuple[str, str, str, str, str, str, str, str]] = {
    "Arabic": (
        "مرحبا|مرحباً|السلام عليكم|أهلا|صباح الخير|مساء الخير", "كيف حالك؟|كيف الحال؟", "شكرا|شكراً|شكرا جزيلا|شكرا لك",
        "مع السلامة|وداعا|إلى اللقاء", "مرحباً! كيف يمكنني مساعدتك؟", "أنا بخير، شكراً! وأنت؟", "على الرحب والسعة!", "مع السلامة!",
    ),
    "English": (
        "Hello|Hi|Hey|Hello!|Hello there|Hi there|Hey there|Good morning|Good evening|Good afternoon|Good day|Hiya|Hello nano|Hi nano|Greetings|Howdy|Yo|hello|hi|hey",
        "How are you?|How are you doing?|How do you do?|How is it going?|What's up?|How are you today?|Are you well?",
        "Thanks|Thank you|Thank you very much|Thanks a lot|Many thanks|Thx|Thank you so much|Great, thanks|Thanks, that helps|Cool, thank you|Perfect, thanks|Nice, thank you",
        "Goodbye|Bye|Bye bye|See you|See you later|Good night|Farewell|Have a nice day|See you tomorrow",
        "Hello! How can I help you?", "I am fine, thank you! And you?", "You are welcome!", "Goodbye!",
    ),
    "French": (
        "Bonjour|Salut|Bonsoir|Coucou|Bonjour nano|Bonjour à tous", "Comment ça va ?|Ça va ?|Comment allez-vous ?|Comment vas-tu ?",
        "Merci|Merci beaucoup|Merci bien|Un grand merci", "Au revoir|À bientôt|Bonne nuit|À demain",
        "Bonjour ! Comment puis-je vous aider ?", "Je vais bien, merci ! Et vous ?", "De rien !", "Au revoir !",
    ),
    "German": (
        "Hallo|Guten Tag|Guten Morgen|Guten Abend|Servus|Moin|Grüß Gott|Hallo nano", "Wie geht es dir?|Wie geht's?|Wie geht es Ihnen?|Alles gut?",
        "Danke|Vielen Dank|Danke schön|Danke sehr|Herzlichen Dank", "Auf Wiedersehen|Tschüss|Bis bald|Gute Nacht|Bis morgen",
        "Hallo! Wie kann ich Ihnen helfen?", "Mir geht es gut, danke! Und Ihnen?", "Gern geschehen!", "Auf Wiedersehen!",
    ),
    "Hindi": (
        "नमस्ते|नमस्कार|हैलो|सुप्रभात|शुभ संध्या", "आप कैसे हैं?|क्या हाल है?|तुम कैसे हो?", "धन्यवाद|शुक्रिया|बहुत धन्यवाद|बहुत बहुत धन्यवाद",
        "अलविदा|फिर मिलेंगे|शुभ रात्रि", "नमस्ते! मैं आपकी क्या मदद कर सकता हूँ?", "मैं ठीक हूँ, धन्यवाद! और आप?", "आपका स्वागत है!", "अलविदा!",
    ),
    "Indonesian": (
        "Halo|Hai|Selamat pagi|Selamat siang|Selamat sore|Selamat malam", "Apa kabar?|Bagaimana kabarmu?|Apa kabarmu?",
        "Terima kasih|Terima kasih banyak|Makasih", "Selamat tinggal|Sampai jumpa|Sampai nanti",
        "Halo! Apa yang bisa saya bantu?", "Saya baik, terima kasih! Dan Anda?", "Sama-sama!", "Sampai jumpa!",
    ),
    "Italian": (
        "Ciao|Buongiorno|Buonasera|Salve|Buon pomeriggio|Ciao nano", "Come stai?|Come va?|Come sta?", "Grazie|Grazie mille|Molte grazie|Tante grazie",
        "Arrivederci|A presto|Buonanotte|A domani", "Ciao! Come posso aiutarti?", "Sto bene, grazie! E tu?", "Prego!", "Arrivederci!",
    ),
    "Portuguese": (
        "Olá|Oi|Bom dia|Boa tarde|Boa noite|Olá nano", "Como vai?|Tudo bem?|Como você está?|Como está?", "Obrigado|Obrigada|Muito obrigado|Muito obrigada",
        "Tchau|Adeus|Até logo|Até amanhã", "Olá! Como posso ajudar?", "Estou bem, obrigado! E você?", "De nada, disponha!", "Até logo!",
    ),
    "Spanish": (
        "Hola|Buenos días|Buenas tardes|Buenas noches|Hola nano|Hola, buenos días|Muy buenas", "¿Cómo estás?|¿Qué tal?|¿Cómo está?|¿Cómo te va?",
        "Gracias|Muchas gracias|Mil gracias", "Adiós|Hasta luego|Hasta pronto|Hasta mañana",
        "¡Hola! ¿En qué puedo ayudarte?", "¡Estoy bien, gracias! ¿Y tú?", "¡De nada!", "¡Hasta luego!",
    ),
    "Tagalog": (
        "Kumusta|Kamusta|Magandang umaga|Magandang hapon|Magandang gabi|Magandang araw", "Kumusta ka?|Kamusta ka?|Kumusta ka na?",
        "Salamat|Maraming salamat|Salamat po|Maraming salamat po", "Paalam|Ingat|Hanggang sa muli",
        "Kumusta! Paano kita matutulungan?", "Mabuti naman ako, salamat! Ikaw?", "Walang anuman!", "Paalam!",
    ),
    "Thai": (
        "สวัสดี|สวัสดีครับ|สวัสดีค่ะ|หวัดดี", "สบายดีไหม|เป็นอย่างไรบ้าง|คุณสบายดีไหม", "ขอบคุณ|ขอบคุณครับ|ขอบคุณค่ะ|ขอบคุณมาก",
        "ลาก่อน|แล้วเจอกัน|ราตรีสวัสดิ์", "สวัสดี! มีอะไรให้ช่วยไหม", "ฉันสบายดี ขอบคุณ! แล้วคุณล่ะ", "ยินดีเสมอ!", "ลาก่อน!",
    ),
    "Vietnamese": (
        "Xin chào|Chào|Chào bạn|Chào buổi sáng|Chào buổi tối", "Bạn khỏe không?|Bạn có khỏe không?|Bạn thế nào?",
        "Cảm ơn|Cảm ơn bạn|Cảm ơn nhiều|Xin cảm ơn", "Tạm biệt|Hẹn gặp lại|Chúc ngủ ngon",
        "Xin chào! Tôi có thể giúp gì cho bạn?", "Tôi khỏe, cảm ơn! Còn bạn?", "Không có gì!", "Tạm biệt!",
    ),
}  # fmt: skip
LANGUAGES = tuple(_PHRASES)
_ENDINGS = ("", "", "", "!", "!", ".", " :)", "!!", ",")
_SAY = (
    "Say {what} in {language}.", "How do you say {what} in {language}?", "What is {what} in {language}?", "{what} in {language}?",
    "Can you say {what} in {language}?", "Please say {what} in {language}.", "How does one say {what} in {language}?",
    "Say {what} to me in {language}.", "Tell me how to say {what} in {language}.",
)  # fmt: skip
# What is said on request: the first greeting, thanks, farewell of the language.
_NAMED = {"hello": 0, "thank you": 2, "thanks": 2, "goodbye": 3, "good morning": -1}
_MORNING = {
    "Arabic": "صباح الخير", "English": "Good morning", "French": "Bonjour", "German": "Guten Morgen", "Hindi": "सुप्रभात",
    "Indonesian": "Selamat pagi", "Italian": "Buongiorno", "Portuguese": "Bom dia", "Spanish": "Buenos días",
    "Tagalog": "Magandang umaga", "Thai": "สวัสดี", "Vietnamese": "Chào buổi sáng",
}  # fmt: skip


def greeting(rng: Random) -> tuple[list[Exchange], str]:
    """Return a greeting, thanks or farewell with its answer in the same language, and its key."""
    language = "English" if rng.random() < 0.25 else rng.choice(LANGUAGES)
    if rng.random() < 0.18:
        return _on_request(rng, language)
    kind = rng.choices((0, 1, 2, 3), (5, 2, 3, 2))[0]
    phrases = _PHRASES[language]
    said = rng.choice(phrases[kind].split("|"))
    if kind == 1 and rng.random() < 0.3:
        said = f"{rng.choice(phrases[0].split('|'))}{rng.choice(', ! . '.split(' '))} {said}"
    elif not said.endswith(("!", "?")):
        said += rng.choice(_ENDINGS)
    if rng.random() < 0.2:
        said = said.lower()
    return [(said, phrases[4 + kind])], said


def _on_request(rng: Random, language: str) -> tuple[list[Exchange], str]:
    what = rng.choice(list(_NAMED))
    index = _NAMED[what]
    answer = _MORNING[language] if index < 0 else _PHRASES[language][index].split("|")[0]
    quoted = rng.choice((what, f'"{what}"', f"'{what}'"))
    said = worded(rng, _SAY, what=quoted, language=language)
    return [(said, f"{answer}!")], said
