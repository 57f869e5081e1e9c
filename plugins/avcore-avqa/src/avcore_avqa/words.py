"""The words of questions and the answers, as lists, and how a question becomes ids. Imports no torch."""

from collections.abc import Sequence

from avcore.errors import AVCoreError, did_you_mean

__all__ = ["ANSWERS", "LENGTH", "MARKS", "PAD", "WORDS", "ids_of", "refuse_bytes", "refuse_several", "words_of"]

PAD = "<pad>"
"""The word that fills a question up; its index is 0."""
LENGTH = 14
"""Words of the longest question of MUSIC-AVQA."""
MARKS = "?\uff1f"
"""Question marks at the end, the full-width one too."""
AROUND = "\"'`.,;:!()\u00a1\u00bf\u201c\u201d\u2018\u2019\u00ab\u00bb" + MARKS
"""Signs that a person may put around a word."""

NAMED, LONG = 8, 40
"""How many unknown words a refusal names, and how many letters of one."""

ANSWERS = (
    *("two", "cello", "congas", "zero", "no", "pipa", "six", "yes", "one", "four", "three", "seven", "five", "ukulele"),
    *("right", "piano", "left", "accordion", "clarinet", "guzheng", "more than ten", "nine", "indoor", "saxophone"),
    *("drum", "violin", "middle", "outdoor", "bagpipe", "bassoon", "acoustic_guitar", "banjo", "electric_bass", "ten"),
    *("eight", "flute", "simultaneously", "trumpet", "erhu", "xylophone", "tuba", "suona"),
)
"""The 42 answers of MUSIC-AVQA in the order in which its training questions have them."""
WORDS = (
    *(PAD, "How", "many", "instruments", "are", "sounding", "in", "the", "video", "What", "kind", "of", "instrument"),
    *("is", "leftest", "musical", "it", "did", "not", "sound", "from", "beginning", "to", "end", "Is", "on", "left"),
    *("louder", "than", "right", "guzheng", "types", "accordion", "always", "playing", "clarinet", "there", "a"),
    *("voiceover", "this", "cello", "violin", "flute", "pipa", "piano", "Which", "that", "sounds", "at", "same"),
    *("time", "as", "acoustic_guitar", "Where", "first", "electric_bass", "drum", "more", "rhythmic", "ukulele"),
    *("banjo", "saxophone", "trumpet", "erhu", "middle", "congas", "entire", "tuba", "bagpipe", "loudest", "comes"),
    *("xylophone", "bassoon", "suona", "second", "appeared", "performance", "rightest", "coming", "third", "last"),
    *("Are", "and", "makes", "before", "after", "lowest", "fourth", "longer", "fifth", "were", "heard", "throughout"),
)
"""The 93 words of MUSIC-AVQA's questions in the order in which its training questions have them."""


def words_of(text: str) -> list[str]:
    """The words of a question between its spaces, without the question mark and signs that nobody sees."""
    seen = "".join(letter for letter in text if letter.isprintable() or letter.isspace())
    return seen.rstrip(MARKS + " \t\r\n").split()


def ids_of(words: Sequence[str], vocabulary: Sequence[str], length: int) -> list[int]:
    """Indices of words, filled up with 0.

    A word that the vocabulary lacks is tried with another first letter, without the signs around it, and together with
    the next one, as names of two words are written (``acoustic_guitar``).

    Args:
        words: of one question.
        vocabulary: all words, `PAD` first.
        length: how many ids a question has.

    Raises:
        AVCoreError: there is no word, there are too many, or some are unknown; names them.
    """
    index = {word: place for place, word in enumerate(vocabulary)}
    found: list[int] = []
    unknown: list[str] = []
    at = 0
    while at < len(words):
        pair = "_".join(_bare(word) for word in words[at : at + 2])
        word = _known(words[at], index)
        if word is None and at + 1 < len(words) and (both := _known(pair, index)) is not None:
            found.append(index[both])
            at += 2
            continue
        at += 1
        if word is not None:
            found.append(index[word])
        elif _bare(words[at - 1]):
            unknown.append(words[at - 1])
    if unknown:
        named = ", ".join(f"'{word if len(word) <= LONG else word[:LONG] + '...'}'" for word in unknown[:NAMED])
        named += f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        meant = did_you_mean(_bare(unknown[0]), [word for word in vocabulary if word != PAD])
        raise AVCoreError(
            f"The question has {'a word' if len(unknown) == 1 else 'words'} that no training question had: {named}."
            f"{meant} Ask with the words of the training questions (task_options.words in the run's config.yaml)."
        )
    if not found:
        raise AVCoreError("The question has no word. Ask one, such as 'Is the piano louder than the violin?'.")
    if len(found) > length:
        raise AVCoreError(
            f"The question has {len(found)} words, and {length} is the most (task_options.length). Ask a shorter one."
        )
    return found + [0] * (length - len(found))


def refuse_bytes(text: str) -> None:
    """Refuse what a command line had in another encoding than that of its text.

    Raises:
        AVCoreError: there are bytes that are no text.
    """
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise AVCoreError(f"The question {text!r:.100} has bytes that are no UTF-8: write it in that encoding.")


def refuse_several(words: Sequence[str]) -> None:
    """Refuse words of more than one question, which would be read as one.

    Raises:
        AVCoreError: a question mark stands before the last word.
    """
    told = [word for word in words if _bare(word)]
    for place, word in enumerate(told[:-1]):
        if any(mark in word for mark in MARKS):
            raise AVCoreError(
                f"That is more than one question: '{word}' ends one, and '{told[place + 1]}' follows. Give each by an "
                "--input question= of its own."
            )


def _bare(word: str) -> str:
    return word.strip(AROUND)


def _known(word: str, index: dict[str, int]) -> str | None:
    """How the vocabulary writes a word; None where it has no such word."""
    bare = _bare(word)
    forms = (word, bare, bare.lower(), bare.capitalize())
    return next((form for form in forms if form in index and form != PAD), None)
