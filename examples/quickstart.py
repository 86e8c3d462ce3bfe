"""Ask without a key and without a configuration: the small model that comes along answers, on this machine."""

from pointsman import Router

COMPLAINT = (
    "The landlord did not return the deposit of 900 dollars after I moved out in May, although the flat was clean."
)
FORM = {
    "type": "object",
    "properties": {"amount_in_dollars": {"type": "integer"}, "month": {"enum": ["March", "April", "May", "June"]}},
    "required": ["amount_in_dollars", "month"],
    "additionalProperties": False,
}

with Router() as router:
    answer = router.generate(f"Summarize this complaint in one sentence: {COMPLAINT}", max_tokens=64)
    print(answer.text)
    print(f"[{answer.backend}: {answer.model}]")

    facts = router.generate(f"How many dollars, and which month? {COMPLAINT}", schema=FORM).parsed()
    print(facts)
