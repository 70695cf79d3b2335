"""An async client against a server on this machine: requests overlap, and so do their windows.

    python examples/own-code/async_client.py

The server here is a stand-in that answers after a while; take your own server's address in its place, and
`Monitor(gpus="all")` where it uses GPUs.
"""

import asyncio

from llenergymeasure import Monitor


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    words = (await reader.readline()).split()
    await asyncio.sleep(0.2)
    writer.write(b" ".join(reversed(words)) + b"\n")
    await writer.drain()
    writer.close()


async def ask(m: Monitor, port: int, text: str) -> None:
    async with m.window("request") as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(text.encode() + b"\n")
        reply = await reader.readline()
        writer.close()
        w.tokens(prompt=len(text.split()), output=len(reply.split()))


async def main() -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with Monitor() as m:
        async with m.window("all requests"):
            await asyncio.gather(*(ask(m, port, f"request number {number}") for number in range(20)))
    server.close()
    print(m.result)


asyncio.run(main())
