"""Read an answer while it is written, and stop reading when it is enough."""

from pointsman import Router

PROMPT = "Tell me a story about a railway in three sentences."

with Router() as router:
    with router.stream(PROMPT, max_tokens=96) as stream:
        for chunk in stream:
            print(chunk.text, end="", flush=True)
    usage = stream.completion.usage
    print(f"\n[{stream.completion.finish_reason}, {usage.output_tokens if usage else 'unknown'} tokens]")

    words = 0
    with router.stream(PROMPT, max_tokens=96) as stream:
        for chunk in stream:
            print(chunk.text, end="", flush=True)
            words += chunk.text.count(" ")
            if words >= 8:
                break  # leaving the block ends the work behind it at once
    print(" ...")
