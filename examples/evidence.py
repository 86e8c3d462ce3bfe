"""Evidence of a complaint: kept in the folder `case`, found again there by the next run, and looked over by a model."""

from pathlib import Path

from mediator import Mediator

from backends import WorkstationBackend

case = Path("case").absolute()
case.mkdir(exist_ok=True)
paper = case / "receipt.txt"
paper.write_text("Received from Anna: 900 dollars, deposit for the flat in Elm Street. 2 March")

with WorkstationBackend(id="here") as backend, Mediator(backends=[backend], path=case) as mediator:
    mediator.state.username = "anna"
    receipt = mediator.submit_evidence_file(
        paper, "document", description="The landlord's receipt for the deposit", claim_type="deposit"
    )
    letter = mediator.submit_evidence(
        b"The flat was clean on 31 May. When do I get the deposit?",
        "email",
        description="Letter to the landlord, which he did not answer",
        claim_type="deposit",
    )
    print(f"receipt: {receipt['cid']}, in {receipt['stored_in']}")

    for one in mediator.get_user_evidence():
        print(f"{one['type']}: {one['description']}")

    found = mediator.retrieve_evidence(receipt["cid"])  # verified now
    print(f"the same bytes: {found == paper.read_bytes()}")

    analysis = mediator.analyze_evidence(claim_type="deposit", max_tokens=60)
    print(f"{analysis['total_evidence']} pieces: {analysis['evidence_by_type']}")
    print(*analysis["gaps"], sep="\n")
    print(f"[{analysis['recommended_by']}] {analysis['recommendation']}")

print(f"All of it is kept in {case}, for the next run; to be rid of it, delete that folder.")
