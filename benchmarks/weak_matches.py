"""Whether "Nothing is close" is said when it should be: of searches that the rows answer, or not.

The rows are the 577 articles of benchmarks/data/til.db (title and body) by the bundled model,
once, every row twice, and with 300 of them repeated, as feeds and logs repeat themselves.
Each question is judged by the code of the search page. Beside it stands the rule that many
tools have: a fixed least score, here the best one for these very questions, which nobody
knows before, and which is another for each model.

    python -m benchmarks.weak_matches
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np

from benchmarks.machine import describe
from datasette_embed import vectors
from datasette_embed.models import Kind
from datasette_embed.providers.bundled import BundledModel
from datasette_embed.web.weak_matches import usual_of

CORPUS = Path(__file__).parent / "data" / "til.db"
REPEATED = 300
#: What the articles are about.
ANSWERED = (
    "how to parse dates in python",
    "sqlite full text search",
    "run a docker container on a mac",
    "github actions cache pip",
    "deploy to fly.io",
    "css grid centre an element",
    "postgresql explain",
    "use jq to filter json",
    "merge two csv files",
    "ssh tunnel",
    "playwright screenshot",
    "git undo last commit",
    "regular expression lookahead",
    "convert video with ffmpeg",
    "zsh history search",
    "django admin custom form",
    "vector embeddings similarity",
    "whisper speech to text",
    "dns lookup",
    "aws s3 bucket policy",
    "kubernetes pods",
    "read a google spreadsheet",
    "macos screenshot hotkey",
    "python packaging",
    "bash loop over files",
    "javascript promises",
    "cloudflare cache",
    "tesseract ocr",
    "datasette plugin",
    "lists of words",
)
#: What they are not about, and no words at all.
FOREIGN = (
    "asdf qwer zxcv",
    "the mating habits of penguins",
    "recipe for chocolate cake",
    "premier league results 1998",
    "lorem ipsum dolor sit amet",
    "my grandmother's knitting patterns",
    "best wine for grilled salmon",
    "xyzzy",
    "roman emperors of the third century",
    "how to change a bicycle tyre",
    "medieval castles in wales",
    "photosynthesis in C4 plants",
    "mortgage rates in canada",
    "guitar chords for beginners",
    "hiking in the alps",
    "aaaaaaaaaaaaa",
    "symptoms of influenza",
    "shakespeare sonnets",
    "nuclear fusion reactor",
    "football world cup",
    "cat litter",
    "tax return deadline",
    "the sea the sea",
    "opera singers",
    "horse racing tips",
    "marathon training plan",
    "baby names",
    "ikea wardrobe",
    "tropical fish",
    "volcano eruption",
)


def main() -> None:
    """Print how many questions of each kind are called weak."""
    print(describe(["numpy", "onnxruntime"]))
    with closing(sqlite3.connect(CORPUS)) as conn:
        texts = [" ".join(row) for row in conn.execute("select title, body from til order by path")]
    model = BundledModel()
    rows = [vectors.encode(vector) for vector in model.embed_multi(texts)]
    asked = {
        kind: [vectors.encode(model.embed(text, kind=Kind.QUERY)) for text in questions]
        for kind, questions in (("answered", ANSWERED), ("foreign", FOREIGN))
    }
    print(f"\n{'rows':28}{'usual':>7}{'answered, weak':>18}{'foreign, weak':>18}")
    corpora = {
        f"{len(rows)} articles": rows,
        "each twice": [row for row in rows for _ in range(2)],
        f"{REPEATED} of them repeated": rows + rows[:REPEATED],
    }
    for name, blobs in corpora.items():
        usual = usual_of(blobs)
        assert usual is not None, "there are too few rows to say anything"
        weak = {
            kind: sum(map(usual.is_weak, each, bests(blobs, each))) for kind, each in asked.items()
        }
        counts = [f"{weak[kind]} of {len(each)}" for kind, each in asked.items()]
        print(f"{name:28}{usual.gap:7.2f}{counts[0]:>18}{counts[1]:>18}")
    answered, foreign = (bests(rows, each) for each in asked.values())
    wrong, limit = min(
        (sum(best < limit for best in answered) + sum(best >= limit for best in foreign), limit)
        for limit in (hundredth / 100 for hundredth in range(100))
    )
    print(f"\nThe best fixed least score for these questions, {limit}, is wrong {wrong} times.")


def bests(rows: list[bytes], questions: list[bytes]) -> list[float]:
    """Return the cosine of the row nearest to each question."""
    matrix, asked = (
        vectors.normalize(vectors.as_vectors([vectors.decode(blob) for blob in blobs]))
        for blobs in (rows, questions)
    )
    return [float(best) for best in np.max(asked @ matrix.T, axis=1)]


if __name__ == "__main__":
    main()
