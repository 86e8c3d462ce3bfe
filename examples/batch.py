"""Some questions at once, with a journal that a second run goes on from; no key is needed."""

import tempfile
from pathlib import Path

from pointsman import BackendError, Completion, Router

QUESTIONS = [f"What is {n} and {n}?" for n in (1, 2, 3)] + [{"id": "bad", "prompt": "Why?", "max_tokens": 0}]


def tell(position: int, result: Completion | BackendError) -> None:
    """Show each result as it comes."""
    print(f"{position}: {'answered' if isinstance(result, Completion) else result}")


with Router() as router, tempfile.TemporaryDirectory() as folder:
    journal = Path(folder) / "questions.db"
    results = router.batch(QUESTIONS, max_workers=2, max_tokens=8, on_result=tell, journal=journal)
    again = router.batch(QUESTIONS, max_workers=2, max_tokens=8, journal=journal)

answers = [one for one in results if isinstance(one, Completion)]
print(
    f"{len(answers)} of {len(results)} answered, {sum(one.usage.output_tokens for one in answers if one.usage)} tokens"
)
print(f"the second run asked nothing: {[one for one in again if isinstance(one, Completion)] == answers}")
