"""Questions as people write them, drawing, description, truth, the majority answer and the prior beside the scores."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from avcore.errors import AVCoreError
from avcore.tasks import Batch
from avcore_avqa.config import AVQATaskConfig
from avcore_avqa.drawing import _wrapped
from avcore_avqa.metrics import AVQAMetrics
from avcore_avqa.task import AVQATask

TASK = AVQATask(AVQATaskConfig())
ASKED = "How many instruments are sounding in the video"


def read(text: str) -> list[str]:
    ids = TASK.read_input("question", text)
    assert ids.shape == (14,)
    assert ids.dtype == torch.int64
    return [TASK.config.words[place] for place in ids.tolist() if place]


@pytest.mark.parametrize(
    "text",
    [
        *(
            f"{ASKED}?",
            ASKED,
            f" {ASKED}\uff1f ",
            f'"{ASKED.lower()} ?"',
            f"{ASKED},?!",
            ASKED.upper(),
            f"\u00bf{ASKED}?",
        ),
        *(f"{ASKED}?\r\n", ASKED.replace(" ", "\n", 1), ASKED.replace(" ", "\u00a0"), f"\ufeff{ASKED} \u200b?\0"),
        *(f"\u201c{ASKED}?\u201d", f"\u00ab{ASKED} ? !\u00bb"),
    ],
)
def test_a_question_is_read_however_it_is_put(text: str) -> None:
    assert read(text) == ASKED.split()


def test_names_of_two_words_may_be_written_apart() -> None:
    assert read("Is the acoustic guitar louder than the Electric bass?") == [
        *("Is", "the", "acoustic_guitar", "louder", "than", "the", "electric_bass")
    ]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "has no word"),
        (" ? ", "has no word"),
        ("<pad>", r"no training question had: '<pad>'\. Ask"),
        ("\ud800", "has bytes that are no UTF-8"),
        ("x" * 5000, r"had: 'x{40}\.\.\.'\."),
        ("cat " * 5000, r"('cat', ){7}'cat' and 4992 more\."),
        ("Is the piano left? Is the flute left?", r"more than one question: 'left\?' ends one, and 'Is' follows"),
        ("Is the cat louder than the piano?", r"a word that no training question had: 'cat'"),
        ("Wie viele Instrumente?", "'Wie', 'viele', 'Instrumente'"),
        ("Is the pianno louder", "Did you mean 'piano'"),
        ("Is " * 15, "has 15 words, and 14 is the most"),
        ("\u97f3\u304c\u3057\u307e\u3059\u304b\uff1f", "a word that no training question had"),
    ],
)
def test_what_is_no_question_is_refused(text: str, match: str) -> None:
    with pytest.raises(AVCoreError, match=match):
        TASK.read_input("question", text)


def test_the_best_answers_are_described_and_drawn() -> None:
    probability = torch.zeros(42)
    probability[[0, 8, 5]] = torch.tensor([0.71, 0.12, 0.05])
    prediction = {
        "answer": torch.tensor(0),
        "probability": probability,
        "question": TASK.read_input("question", ASKED),
    }
    assert TASK.describe(prediction) == f"{ASKED}? two 71 %, one 12 %, pipa 5 %"
    truth = TASK.truth({"answer": torch.tensor(8), "kind": torch.tensor(0)})
    assert truth is not None
    assert TASK.describe(truth) == "one"
    few = AVQATask(AVQATaskConfig(answers=("no", "yes")))
    assert few.describe({"answer": torch.tensor(1), "probability": torch.tensor([0.2, 0.8])}) == "yes 80 %, no 20 %"
    frames = np.full((2, 100, 160, 3), 128, dtype=np.uint8)
    for top, shown in ((8, prediction), (0, truth)):
        drawn = TASK.draw(frames, shown)
        assert drawn.shape == frames.shape
        assert (drawn[:, top:92] == 128).all()
        for band in (drawn[:, :top], drawn[:, 92:]):
            assert not band.size or (band > 200).any()
            assert (band[:, :, -1] == 38).all()  # darkened under the text
    assert (frames == 128).all()


def test_a_long_question_is_written_in_two_lines_before_it_is_cut() -> None:
    frames = np.full((1, 224, 224, 3), 128, dtype=np.uint8)

    def rows(question: str) -> int:
        prediction = {"answer": torch.tensor(0), "question": TASK.read_input("question", question)}
        return int((TASK.draw(frames, prediction)[0, :112, -1, 0] == 38).sum())

    assert rows("Is there a voiceover?") == 18
    assert rows(ASKED) == 36
    assert rows("Is the acoustic_guitar on the left more rhythmic than the electric_bass on the right?") == 36
    assert rows("acoustic_guitar " * 14) == 36


ATTENDED = {
    "answer": torch.tensor(0),
    "probability": torch.eye(42)[0],
    # The first second is heard, the third one seen.
    "seconds": torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]),
    "place": torch.arange(3),
    "regions": torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]], [[0.25, 0.25], [0.25, 0.25]]]),
}


def redness(picture: np.ndarray) -> float:
    """How much redder than blue, mean over the picture."""
    return float(picture[..., 0].mean() - picture[..., 2].mean())


@pytest.mark.parametrize("size", [(224, 224), (360, 640), (640, 360)])
def test_regions_are_heat_and_seconds_a_bar_under_it(size: tuple[int, int]) -> None:
    rows, columns = size
    drawn = TASK.draw(np.full((3, rows, columns, 3), 128, dtype=np.uint8), ATTENDED)
    height = round(0.13 * min(size))
    clear = drawn[:, : rows - height - 2 * round(0.08 * min(size))]
    left_upper, right_lower = np.s_[: rows // 4, : columns // 4], np.s_[rows // 2 :, columns * 3 // 4 :]
    assert redness(clear[0][left_upper]) > 40 > 1 > redness(clear[0][right_lower])
    assert redness(clear[1][right_lower]) > 40 > 1 > redness(clear[1][left_upper])
    assert (clear[2] == 128).all()  # everything is attended to alike
    bar = drawn[0, rows - height + 2 : rows - 1]
    third = columns // 3
    assert (bar[:, third // 4] == (70, 160, 255)).all()
    assert (bar[:, third * 2 + third * 3 // 4] == (255, 150, 40)).all()
    assert (bar[:, third + third // 4] == 38).all()
    # The frame around the present second moves on.
    for place in range(3):
        lines = (drawn[place, rows - height] == 255).all(-1)
        assert lines[third * place + 5 : third * (place + 1) - 5].all()
        assert lines.sum() < third + 5


def test_what_is_red_by_itself_is_not_taken_for_heat() -> None:
    red = np.zeros((3, 224, 224, 3), dtype=np.uint8)
    red[..., 0] = 200
    drawn = TASK.draw(red, ATTENDED)[0]
    assert redness(drawn[112:150, 168:]) < 0.5 * redness(red)
    assert redness(drawn[20:50, :50]) > 1.5 * redness(drawn[112:150, 168:])


def test_an_answer_stays_in_a_line_with_its_share() -> None:
    text = "sheep 23 %, acoustic_guitar 21 %, cattle 16 %"
    lines, font = _wrapped(text, 190, 15, 11)
    assert lines == ["sheep 23 %, acoustic_guitar 21 %,", "cattle 16 %"]
    assert all(font.getlength(line) <= 190 for line in lines)


def test_a_head_that_attends_to_nothing_draws_the_answers_alone() -> None:
    shown = {name: ATTENDED[name] for name in ("answer", "probability")}
    drawn = TASK.draw(np.full((3, 224, 224, 3), 128, dtype=np.uint8), shown)
    assert (drawn[:, : 224 - 36] == 128).all()
    assert "attention" not in TASK.details([(0.0, 1.0)] * 3, shown)


def test_what_is_told_as_data() -> None:
    # The video ends within the second segment.
    found = TASK.details([(0.0, 6.0), (6.0, 9.5)], ATTENDED)
    assert (found["answer"], found["probability"], found["third_probability"]) == ("two", 1.0, 0.0)
    assert found["attention"] == [
        {"start": 0.0, "end": 6.0, "sound": 1.0, "pictures": 0.0, "region": [0.0, 0.0, 0.5, 0.5]},
        {"start": 6.0, "end": 9.5, "sound": 0.0, "pictures": 0.0, "region": [0.5, 0.5, 1.0, 1.0]},
    ]


def test_the_majority_is_the_most_frequent_answer() -> None:
    majority = TASK.majority([{"answer": torch.tensor(place)} for place in (3, 7, 7)], 10)
    assert majority == {"answer": torch.tensor(7)}


def test_the_prior_stands_beside_the_scores_of_the_same_questions() -> None:
    metrics = AVQAMetrics("paper")
    targets = {
        "answer": torch.tensor([1, 1, 2, 0]),
        "kind": torch.tensor([0, 8, 8, 0]),
        "prior": torch.tensor([1, 2, -1, 0]),
        "listed": torch.full((4,), 6),
    }
    valid = torch.tensor([True, True, True, False])
    batch = Batch(frames=None, waveform=None, targets=targets, names=["a"] * 4, samples=torch.arange(4), valid=valid)
    metrics.update({"answer": torch.tensor([0, 1, 2, 0])}, batch)
    assert metrics.compute() == pytest.approx(
        {"accuracy": 200 / 3, "AQ": 0, "AVQ": 100, "A_Counting": 0, "AV_Temporal": 100, "prior": 50, "coverage": 50}
    )
    with pytest.raises(AVCoreError, match="differ in shape"):
        metrics.update({"answer": torch.zeros(4, 42)}, batch)
    nothing = AVQAMetrics("clean")
    nothing.update(
        {"answer": torch.zeros(4, dtype=torch.int64)}, replace(batch, valid=torch.zeros(4, dtype=torch.bool))
    )
    with pytest.raises(AVCoreError, match="No question was evaluated"):
        nothing.compute()
