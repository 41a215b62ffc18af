"""Requests without classes: a model finds words in the image, then segments the image into these words."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from fastapi import HTTPException

from ovss_ray.errors import OvssError
from ovss_ray.serve.http.admission import Desk, Model
from ovss_ray.serve.http.answers import Word
from ovss_ray.serve.http.requests import Segment
from ovss_ray.serve.row import Row, row
from ovss_ray.structures import words
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.vocabulary import Vocabulary, folded

REQUEST = "request"
"""Value of Word.source for a class of the request (field `add`); the model did not find this word"""


def wanted(fields: Segment, desk: Desk) -> bool:
    """Return whether a model must find the words of an image.

    The result is True in three cases:

    - The request sets `add`.
    - The request has neither classes nor a benchmark, and names a model that can find words.
    - The request has neither classes nor a benchmark, names no model, and a served model can find words.
    """
    able = [name for name, model in desk.models.items() if "words" in model.description["answers"]]
    named = bool(fields.classes) or fields.benchmark is not None
    return fields.add or (not named and bool(able) and fields.model in (None, *able))


async def find(desk: Desk, model: Model, image: np.ndarray, added: Vocabulary | None) -> list[Word]:
    """Return the words that a model finds in an image, followed by the classes of `added`.

    `image` is (H, W, 3) uint8 RGB. If the model finds the first name of a class of `added`, the class is left out.

    Raises HTTPException 422 if a stage of the model failed, or if the result has more than `limits.classes` words.
    """
    answer = await desk.send(model, row(image, model.words), model.words, "words")
    value = answer["words"]
    scores = value["scores"] or [None] * len(value["classes"])
    listed = [
        Word(name=names[0], synonyms=names[1:], source=value["source"], score=score)
        for names, score in zip(value["classes"], scores, strict=True)
    ]
    used = {folded(name) for names in value["classes"] for name in names}
    for names in added.classes if added else ():
        if folded(names[0]) not in used:
            listed.append(Word(name=names[0], synonyms=list(names[1:]), source=REQUEST, score=None))
    if len(listed) > desk.limits.classes:
        raise HTTPException(
            422,
            f"too many words: {len(listed):,} found in the image or added by the request; the limit is "
            f"{desk.limits.classes:,}. Pass classes without the field `add`",
        )
    return listed


def vocabulary(listed: Sequence[Word], templates: Sequence[str]) -> Vocabulary | None:
    """Return the vocabulary of `listed`, with `templates`. If `listed` is empty, return None.

    Raises HTTPException 422 for invalid names and templates.
    """
    try:
        of_image = words.vocabulary({"classes": [[word.name, *word.synonyms] for word in listed]})
        return replace(of_image, templates=tuple(templates)) if of_image else None
    except OvssError as failure:
        raise HTTPException(422, str(failure)) from failure


def unnamed(image: np.ndarray) -> Row:
    """Return the answer for an image (H, W, 3) in which the model found no words: no pixel has a class."""
    labels: Any = np.full(image.shape[:2], NONE, np.uint16)
    return {"prediction": labels, "seconds": {}, "error": ""}
