"""The lists of classes of Kinetics-Sounds: 31, 32 and 34 names. Imports no torch."""

__all__ = ["KINETICS_SOUNDS", "LISTS"]

KINETICS_SOUNDS = (
    *("blowing_nose", "blowing_out_candles", "bowling", "chopping_wood", "dribbling_basketball", "laughing"),
    *("mowing_lawn", "playing_accordion", "playing_bagpipes", "playing_bass_guitar", "playing_clarinet"),
    *("playing_drums", "playing_guitar", "playing_harmonica", "playing_keyboard", "playing_organ", "playing_piano"),
    *("playing_saxophone", "playing_trombone", "playing_trumpet", "playing_violin", "playing_xylophone"),
    *("ripping_paper", "shoveling_snow", "shuffling_cards", "singing", "stomping_grapes", "tap_dancing"),
    *("tapping_guitar", "tapping_pen", "tickling"),
)
"""The 31 classes of OGM-GE's lists, in the order of their indices.

Those lists name none: the alphabetical order was confirmed for 18 of the 31 by clips that VGGSound labels too.
"""

_MOMA = tuple(sorted((*KINETICS_SOUNDS, "strumming_guitar")))

_ORIGINAL = (
    *("blowing_nose", "blowing_out", "bowling", "chopping_wood", "dribbling_ball", "fingerpicking", "laughing"),
    *("mowing_lawn", "patting", "playing_accordion", "playing_bagpipes", "playing_bass_guitar", "playing_clarinet"),
    *("playing_drums", "playing_guitar", "playing_harmonica", "playing_keyboard", "playing_organ", "playing_piano"),
    *("playing_saxophone", "playing_trombone", "playing_trumpet", "playing_violin", "playing_xylophone"),
    *("ripping_paper", "shoveling_snow", "shuffling_cards", "singing", "stomping", "tap_dancing", "tapping_guitar"),
    *("tapping_pen", "tickling", "typing"),
)

LISTS = {"ks-31": KINETICS_SOUNDS, "ks-32": _MOMA, "ks-34": _ORIGINAL}
"""Lists by name: OGM-GE's and AdaMML's, that of MoMA, CrissCross and STG-CMA, and the original one (2017)."""
