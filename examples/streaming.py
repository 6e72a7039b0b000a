"""The features of a stream: every event, a snapshot at any time, deadlines, cancelling from another task."""

from __future__ import annotations

import asyncio
import sys

from llama4sdk import DeadlineExceeded, Deadlines, Llama4, Sampling, Stream, TextDelta

STORY = "Count from 1 to 40."


async def events(llama: Llama4) -> None:
    """Print each event as it comes."""
    async with llama.stream("What is 8 + 5?", sampling=Sampling(logprobs=1)) as stream:
        async for event in stream:
            match event:
                case TextDelta(text=text, logprobs=logprobs):
                    chances = ", ".join(f"{token.text!r} {2.718281828**token.logprob:.0%}" for token in logprobs)
                    print(f"  text      {text!r:12} {chances}")
                case _:
                    print(f"  {type(event).__name__.lower()}")


async def stop_when(enough: asyncio.Event, stream: Stream) -> None:
    """Cancel a stream from a task of its own."""
    await enough.wait()
    await stream.cancel()


async def cancel(llama: Llama4) -> None:
    """Let another task stop the answer."""
    enough = asyncio.Event()
    async with asyncio.TaskGroup() as tasks, llama.stream(STORY) as stream:
        tasks.create_task(stop_when(enough, stream))
        async for _ in stream.text():
            if len(stream.snapshot.text) > 20:
                enough.set()
    print(f"  {stream.snapshot.finish_reason}: {stream.snapshot.text!r}")


async def deadline(llama: Llama4) -> None:
    """Give the answer far too little time; what had come is kept."""
    try:
        await llama.chat(STORY, deadlines=Deadlines(total=0.05))
        print("  done in time")
    except DeadlineExceeded as error:
        print(f"  {error.phase} deadline: {error.partial.text if error.partial else ''!r}")


async def main() -> None:
    """Show all of it."""
    async with Llama4(guards=None if "--no-guards" in sys.argv else "auto") as llama:
        print("events")
        await events(llama)
        print("cancel from another task")
        await cancel(llama)
        print("a deadline")
        await deadline(llama)


if __name__ == "__main__":
    asyncio.run(main())
