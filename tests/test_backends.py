"""The samples of the complaint generator's guide to its other backends, and to evidence, run as they stand there.

Nothing in a sample is changed. Where it names a file or a CID that stands for the reader's own, what it says is tested.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mediator import Mediator
from pointsman import InvalidRequestError, ModelNotFoundError
from pointsman.testing import FaultServer

import backends

Serve = Callable[..., FaultServer]

OPENAI = """
from backends import OpenAIBackend

backend = OpenAIBackend(
    id='openai',
    api_key='sk-...',
    model='gpt-4',
    max_tokens=500
)

response = backend.generate(prompt="Your prompt here")
"""

HUGGINGFACE = """
from backends import HuggingFaceBackend

backend = HuggingFaceBackend(
    id='huggingface',
    api_key='hf_...',
    model='mistralai/Mistral-7B-Instruct-v0.1',
    max_tokens=500
)

response = backend.generate(prompt="Your prompt here")
"""

WORKSTATION = """
from backends import WorkstationBackend

backend = WorkstationBackend(
    id='workstation',
    model_path='/path/to/model.gguf',
    n_ctx=4096,
    n_threads=8
)

response = backend.generate(prompt="Your prompt here")
"""

CONFIGURATIONS = (
    """
{
  "BACKENDS": [
    {
      "id": "openai",
      "type": "openai",
      "api_key": "${OPENAI_API_KEY}",
      "model": "gpt-4",
      "max_tokens": 500
    }
  ]
}
""",
    """
{
  "BACKENDS": [
    {
      "id": "huggingface",
      "type": "huggingface",
      "api_key": "${HUGGINGFACE_API_KEY}",
      "model": "mistralai/Mistral-7B-Instruct-v0.1",
      "max_tokens": 500
    }
  ]
}
""",
    """
{
  "BACKENDS": [
    {
      "id": "workstation",
      "type": "workstation",
      "model_path": "/path/to/model.gguf",
      "n_ctx": 4096,
      "n_threads": 8
    }
  ]
}
""",
)

EVIDENCE = """
from mediator import Mediator

mediator = Mediator(backends=[backend])

# Submit evidence to IPFS
result = mediator.submit_evidence(
    data=b"Document content...",
    evidence_type='document',
    description='Performance review',
    claim_type='wrongful_termination'
)

print(f"Evidence CID: {result['cid']}")

# Retrieve evidence by CID
evidence = mediator.get_evidence_by_cid(result['cid'])
print(f"Retrieved: {evidence['description']}")
"""

BASIC = """
from mediator import Mediator
from backends import LLMRouterBackend

# Initialize mediator
backend = LLMRouterBackend(id='llm-router', provider='copilot_cli', model='gpt-5-mini')
mediator = Mediator(backends=[backend])

# Set user context
mediator.state.username = 'john_doe'

# Submit evidence
result = mediator.submit_evidence(
    data=b"Contract document content...",
    evidence_type='document',
    description='Original signed contract',
    claim_type='breach of contract',
    metadata={'filename': 'contract.pdf', 'signed_date': '2023-01-15'}
)

print(f"Evidence stored with CID: {result['cid']}")
print(f"Record ID: {result['record_id']}")
"""

FILE = """
# Submit evidence from file path
result = mediator.submit_evidence_file(
    file_path='/path/to/evidence.pdf',
    evidence_type='document',
    description='Email correspondence with defendant',
    claim_type='breach of contract'
)
"""

LISTED = """
# Get all evidence for current user
evidence_list = mediator.get_user_evidence()

for evidence in evidence_list:
    print(f"CID: {evidence['cid']}")
    print(f"Type: {evidence['type']}")
    print(f"Description: {evidence['description']}")
    print(f"Timestamp: {evidence['timestamp']}")
    print(f"Claim: {evidence['claim_type']}")
    print()
"""

BY_CID = """
# Get evidence data from IPFS by CID
cid = 'QmXxxxx...'
data = mediator.retrieve_evidence(cid)

# Save to file
with open('retrieved_evidence.pdf', 'wb') as f:
    f.write(data)
"""

ANALYSIS = """
# Analyze evidence for a specific claim
analysis = mediator.analyze_evidence(claim_type='breach of contract')

print(f"Total evidence: {analysis['total_evidence']}")
print(f"Evidence by type: {analysis['evidence_by_type']}")
print(f"Recommendation: {analysis['recommendation']}")
"""

FILES = """
evidence_files = [
    ('contract.pdf', 'document', 'Original contract'),
    ('email1.pdf', 'email', 'Email thread 1'),
    ('email2.pdf', 'email', 'Email thread 2'),
]

cids = []
for file_path, ev_type, description in evidence_files:
    result = mediator.submit_evidence_file(
        file_path=file_path,
        evidence_type=ev_type,
        description=description,
        claim_type='breach of contract'
    )
    cids.append(result['cid'])
    print(f"Submitted: {description} → {result['cid']}")
"""

STATISTICS = """
# Get comprehensive statistics
stats = mediator.evidence_state.get_evidence_statistics()

print(f"Total evidence items: {stats['total_count']}")
print(f"Total storage used: {stats['total_size']} bytes")
print(f"Evidence types: {stats['type_count']}")
print(f"Total users: {stats['user_count']}")
"""

RECORD = """
# Get evidence record from DuckDB
evidence = mediator.evidence_state.get_evidence_by_cid('QmXxxxx...')

if evidence:
    print(f"Owner: {evidence['username']}")
    print(f"Type: {evidence['type']}")
    print(f"Uploaded: {evidence['timestamp']}")
    print(f"Claim: {evidence['claim_type']}")
"""

#: Of `Document content...` and `Contract document content...`, as `ipfs add --cid-version=1` gives them.
REVIEW = "bafkreihz2tntifuzc5x6llgp4eepvxowsr2dg52mupy32zxogvlin3g4dy"
CONTRACT = "bafkreibcxyhwkr5xx2bqbuwv4vqleejhsgfrixe4gk2ybxtgfmjxd6xzsu"


@pytest.fixture
def service(guide: Any, fault_server: Serve, monkeypatch: pytest.MonkeyPatch) -> FaultServer:
    """What stands in for OpenAI and for Hugging Face."""
    server = fault_server()
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("HF_BASE_URL", server.url)
    return server


# -- backends -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sample", "key", "model"),
    [(OPENAI, "sk-...", "gpt-4"), (HUGGINGFACE, "hf_...", "mistralai/Mistral-7B-Instruct-v0.1")],
    ids=["openai", "huggingface"],
)
def test_a_service(guide: Any, service: FaultServer, sample: str, key: str, model: str) -> None:
    """The sample is answered; its key, its model and its limit are what the service gets."""
    guide.type(sample)
    assert guide.names["response"] == "You said: Your prompt here"
    (seen,) = service.asked
    assert (seen.key, seen.model) == (key, model)
    assert seen.body.get("max_tokens", seen.body.get("max_completion_tokens")) == 500


def test_a_workstation(guide: Any) -> None:
    """Where the file of the sample is not, the error says where it was looked for."""
    with pytest.raises(ModelNotFoundError, match=r"workstation: .*/path/to/model\.gguf"):
        guide.type(WORKSTATION)
    (backend,) = guide.names["backend"].router.backends
    assert (backend.provider.n_ctx, backend.provider.n_threads) == (4096, 8)


@pytest.mark.parametrize("text", CONFIGURATIONS, ids=["openai", "huggingface", "workstation"])
def test_a_configuration(guide: Any, service: FaultServer, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """The file of the guide makes its backend, and its class takes the entry; the key is that of the variable."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-reader-0123456789")
    monkeypatch.setenv("HUGGINGFACE_API_KEY", "hf_of_the_reader_0123456789")
    Path("config.json").write_text(text)
    ((name, made),) = backends.load("config.json").items()
    with made:
        if name == "workstation":
            with pytest.raises(ModelNotFoundError, match=r"/path/to/model\.gguf"):
                made("Hello")
        else:
            assert made("Hello") == "You said: Hello"
            assert service.asked[0].key in ("sk-of-the-reader-0123456789", "hf_of_the_reader_0123456789")
    with type(made)(**json.loads(text)["BACKENDS"][0]) as again:
        assert (again.id, again.provider, again.model) == (made.id, made.provider, made.model)


# -- evidence -------------------------------------------------------------------------------------------


def test_evidence(guide: Any, service: FaultServer) -> None:
    """With no node and no configuration, the CID is that of every IPFS node, and the same bytes come back."""
    guide.type(OPENAI)
    assert guide.type(EVIDENCE) == f"Evidence CID: {REVIEW}\nRetrieved: Performance review\n"
    assert (guide.names["evidence"]["data"], guide.names["evidence"]["verified"]) == (b"Document content...", True)
    assert guide.names["result"]["stored_in"] == ["blocks"]
    assert guide.names["result"]["waiting_for"] == []


def test_evidence_in_a_program_of_its_own(guide: Any) -> None:
    """Where it is all of a program, that ends at once and warns of nothing; the next program finds the record."""
    before = "from backends import OpenAIBackend\nbackend = OpenAIBackend(id='openai', api_key='sk-...', model='gpt-4')"
    for number in (1, 2):
        done = guide.alone(before, EVIDENCE, "print(len(evidence['records']))")
        assert done.stdout == f"Evidence CID: {REVIEW}\nRetrieved: Performance review\n{number}\n"
        assert done.stderr == ""


def test_basic_usage_and_all_that_follows(guide: Any) -> None:
    """Each sample of the guide to evidence, one after another, as its reader would type them."""
    printed = guide.type(BASIC)
    record = guide.names["result"]["record_id"]
    assert printed == f"Evidence stored with CID: {CONTRACT}\nRecord ID: {record}\n"
    time = guide.names["result"]["timestamp"]
    assert guide.type(LISTED) == (
        f"CID: {CONTRACT}\nType: document\nDescription: Original signed contract\nTimestamp: {time}\n"
        "Claim: breach of contract\n\n"
    )
    contents = {name: f"%PDF-1.7 {name}".encode() for name in ("contract.pdf", "email1.pdf", "email2.pdf")}
    for name, content in contents.items():
        Path(name).write_bytes(content)
    printed = guide.type(FILES)
    told = zip(("Original contract", "Email thread 1", "Email thread 2"), guide.names["cids"], strict=True)
    assert printed == "".join(f"Submitted: {what} → {cid}\n" for what, cid in told)
    total = len(b"Contract document content..." + b"".join(contents.values()))
    assert guide.type(STATISTICS) == (
        f"Total evidence items: 4\nTotal storage used: {total} bytes\nEvidence types: 2\nTotal users: 1\n"
    )


def test_an_analysis_cites_what_there_is(guide: Any, service: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts are printed, and what a backend says, with the CID of the evidence."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-reader-0123456789")
    guide.type("from mediator import Mediator\n" + OPENAI + "\nmediator = Mediator(backends=[backend])")
    guide.names["mediator"].submit_evidence(
        b"Contract document content...", "document", claim_type="breach of contract"
    )
    printed = guide.type(ANALYSIS)
    assert printed.startswith("Total evidence: 1\nEvidence by type: {'document': 1}\nRecommendation: You said: ")
    assert CONTRACT in printed.rpartition("Evidence:")[2]


def test_an_analysis_that_nobody_answers(guide: Any) -> None:
    """The counts are printed all the same, and why there is no recommendation."""
    guide.type(BASIC)
    printed = guide.type(ANALYSIS)
    assert printed.startswith("Total evidence: 1\nEvidence by type: {'document': 1}\nRecommendation: There is no rec")
    assert "no program 'copilot'" in printed


@pytest.mark.parametrize(
    ("sample", "words"),
    [(FILE, r"/path/to/evidence\.pdf: .*No such file"), (BY_CID, r"QmXxxxx\.\.\."), (RECORD, r"QmXxxxx\.\.\.")],
    ids=["file", "bytes", "record"],
)
def test_what_stands_for_the_readers_own(guide: Any, sample: str, words: str) -> None:
    """A file that is not there, and a CID that is none, are named in the error."""
    guide.type("from mediator import Mediator\nmediator = Mediator(backends=[])")
    with pytest.raises(InvalidRequestError, match=words):
        guide.type(sample)
    assert not Path("retrieved_evidence.pdf").exists()


def test_a_configuration_of_backends_is_a_mediator(guide: Any, service: FaultServer) -> None:
    """What `backends.load` returned is what a mediator asks, in that order."""
    entry = {"type": "openai", "model": "gpt-4", "base_url": service.url}
    with Mediator(backends.load({"BACKENDS": [{"id": "a", **entry}, {"id": "b", **entry}]})) as mediator:
        assert mediator.generate("Hello") == "You said: Hello"
        assert mediator.router is not None
        assert [one.id for one in mediator.router.backends] == ["a", "b"]
