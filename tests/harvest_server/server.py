"""The vendor itself: one asyncio server in a thread of this process, or the main one of its own."""

import asyncio
import json
import threading
import time
from collections import Counter
from dataclasses import replace
from typing import Any, Self

from tests.harvest_server.films import SOME_PROMPT, Format, film
from tests.harvest_server.jobs import Book, Job
from tests.harvest_server.script import Rule, Script, Verb
from tests.harvest_server.vendors import BASE_PATHS, VENDORS, Provider
from tests.harvest_server.vendors.vendor import Route, Vendor
from tests.harvest_server.wire import Reply, Request, read_request, reset, write_reply


class Server:
    """One scripted vendor; its counts are the judge of "never pays twice"."""

    def __init__(self, provider: Provider, script: Script | None = None, port: int = 0) -> None:
        self.provider: Provider = provider
        self.script = script or Script()
        self.book = Book()
        self.port = port
        self.host = "127.0.0.1"
        self._vendor: Vendor = VENDORS[provider]()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._connections: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """Where the vendor is; adapters take it for their base URL."""
        return f"http://{self.host}:{self.port}"

    @property
    def base_url(self) -> str:
        """What a user writes into access.base_url for this provider."""
        return self.url + BASE_PATHS[self.provider]

    def posts(self) -> Counter[tuple[str, int | None]]:
        """How often each (prompt, seed) was asked for by a POST that arrived whole."""
        return Counter((asked.prompt, asked.seed) for asked in self.book.posts)

    def jobs(self) -> Counter[tuple[str, int | None]]:
        """How many jobs each (prompt, seed) has: what the vendor would bill."""
        jobs = self.book.jobs.values()
        return Counter((job.asked.prompt, job.asked.seed) for job in jobs)

    def rewrite(self, script: Script) -> None:
        """Another script from now on; what happened stays."""
        self.script = script
        self.book.passed.clear()

    def stop(self) -> None:
        """The vendor is gone: its port refuses connections."""
        if self._loop and self._thread:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop = self._thread = None

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        if not ready.wait(10):
            raise RuntimeError("the scripted vendor did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, ready: threading.Event) -> None:
        self._loop = asyncio.new_event_loop()
        listening = self._loop.run_until_complete(self.listen())
        ready.set()
        self._loop.run_forever()
        listening.close()
        for writer in self._connections:
            writer.transport.abort()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def listen(self) -> asyncio.Server:
        """Begin to serve; the port is known afterwards."""
        server = await asyncio.start_server(self._serve, self.host, self.port, limit=1 << 20)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while (request := await read_request(reader)) is not None:
                is_control = request.path.startswith("/control/")
                reply = self._control(request) if is_control else await self._answer(request)
                if not await write_reply(writer, reply):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client went away, or the vendor did
        except Exception:
            reset(writer)
            raise
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _answer(self, request: Request) -> Reply:
        record: dict[str, Any] = {"method": request.method, "path": request.path}
        self.book.requests.append(record | {"headers": request.headers, "query": request.query})
        await asyncio.sleep(self.script.latency_s)
        if request.path.startswith("/media/"):
            return await self._media(request, request.path.split("/")[2])
        route = self._vendor.route(request)
        if route is None:
            return self._json(404, self._vendor.error(404, "not_found", "no such endpoint"))
        if self.script.key not in (None, self._vendor.key(request)):
            return self._json(401, self._vendor.error(401, "unauthorised", "wrong API key"))
        return await self._routed(request, route)

    async def _routed(self, request: Request, route: Route) -> Reply:
        match route:
            case ("create", subject):
                return self._create(request, subject)
            case ("list", _):
                return self._list(request)
            case ("content", job_id):
                return await self._media(request, job_id, is_signed=False)
            case ("poll", subject):
                return self._poll(subject)

    def _list(self, request: Request) -> Reply:
        shown = self.book.listed(self.script)
        return self._befall(
            "list", "", lambda: self._json(*self._vendor.listed(shown, request.query))
        )

    def _create(self, request: Request, subject: str) -> Reply:
        asked = self._vendor.asked(request, subject)
        self.book.posts.append(asked)

        def work() -> Reply:
            unfinished = sum(not job.is_done for job in self.book.jobs.values())
            if self.script.max_in_flight is not None and unfinished >= self.script.max_in_flight:
                busy = self._json(429, self._vendor.error(429, "busy", "too many tasks"))
                return replace(busy, headers=busy.headers | {"Retry-After": "1"})
            fate = self.script.fate(asked.prompt)
            if fate.ends == "refused_input" and self._vendor.refuses_at_create:
                return self._json(400, self._vendor.error(400, "refused", fate.text))
            job = self.book.open(self.script, asked)
            return self._json(*self._vendor.created(job, self.url))

        return self._befall("create", asked.prompt, work)

    def _poll(self, subject: str) -> Reply:
        job_id, _, part = subject.partition("/")
        job = self.book.jobs.get(job_id)
        if job is None:
            return self._json(404, self._vendor.error(404, "not_found", "no such task"))

        def work() -> Reply:
            if part != "response":
                job.num_polls += 1
            state = job.state()
            urls = self._urls(job) if state == "succeeded" else []
            status, body = self._vendor.polled(job, state, urls, self.url, part)
            if isinstance(body, dict):
                body = {**body, **job.fate.extra}
            if job.is_done and status == 200:
                status = job.fate.status
            return self._json(status, body)

        return self._befall("poll", job.asked.prompt, work)

    def _urls(self, job: Job) -> list[str]:
        """Signed, fresh at every poll."""
        if job.fate.url is not None:
            return [job.fate.url.replace("{base}", self.url)]
        signature = self.book.sign(self.script.url_lives_s)
        return [
            f"{self.url}/media/{job.id}/{n}.mp4?X-Signature={signature}"
            for n in range(job.fate.num_videos)
        ]

    async def _media(self, request: Request, job_id: str, *, is_signed: bool = True) -> Reply:
        job = self.book.jobs.get(job_id)
        valid_until = self.book.signatures.get(request.query.get("X-Signature", ""), 0.0)
        if job is None or job.fate.ends == "no_videos":
            return Reply(404, b"<Error>NoSuchKey</Error>")
        if is_signed and time.time() >= valid_until:
            return Reply(403, b"<Error>Request has expired</Error>")
        shape = Format(
            size=job.fate.size or 64,
            num_frames=job.fate.num_frames or 16,
            fps=job.fate.fps or 16,
        )
        constant = self.script.film == "constant"
        prompt, seed = (SOME_PROMPT, 0) if constant else (job.asked.prompt, job.seed)
        clip = await asyncio.to_thread(film, prompt, seed, shape)

        def work() -> Reply:
            return _ranged(request, Reply(200, clip, {"Content-Type": "video/mp4", "ETag": '"1"'}))

        reply = self._befall("download", job.asked.prompt, work)
        if reply.act == "changed":
            reply.body, reply.headers["ETag"], reply.status = (
                film(prompt, seed + 1, shape),
                '"2"',
                200,
            )
        return reply

    def _befall(self, verb: Verb, prompt: str, work: Any) -> Reply:
        """The vendor's work, or what the script lets happen to it."""
        rule = self._rule(verb, prompt)
        if rule is None:
            return work()
        if rule.do in ("answer", "work_then_answer"):
            if rule.do == "work_then_answer":
                work()
            body = rule.body.replace("{base}", self.url).encode("utf-8", "surrogatepass")
            headers = {
                name: value.replace("{base}", self.url) for name, value in rule.headers.items()
            }
            return Reply(rule.status, body, {"Content-Type": "application/json"} | headers)
        reply = Reply(0) if rule.do == "reset_before" else work()
        return replace(reply, act=rule.do, bytes_per_s=rule.bytes_per_s)

    def _rule(self, verb: Verb, prompt: str) -> Rule | None:
        for number, rule in enumerate(self.script.rules):
            if rule.on != verb or rule.prompt not in prompt:
                continue
            passed = self.book.passed[number] = self.book.passed.get(number, 0) + 1
            if passed > rule.skip and (rule.times is None or passed <= rule.skip + rule.times):
                return rule
        return None

    def _json(self, status: int, body: Any) -> Reply:
        return Reply(status, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _control(self, request: Request) -> Reply:
        match request.path.removeprefix("/control/"), request.method:
            case "script", "POST":
                self.rewrite(Script.from_json(request.body.decode()))
                return self._json(200, {})
            case "posts", "GET":
                rows = [[prompt, seed, n] for (prompt, seed), n in self.posts().items()]
                return self._json(200, rows)
            case "jobs", "GET":
                jobs = self.book.jobs.values()
                rows = [[job.id, job.asked.prompt, job.asked.seed, job.state()] for job in jobs]
                return self._json(200, rows)
            case "requests", "GET":
                return self._json(200, self.book.requests)
            case _:
                return self._json(404, {"error": "script, posts, jobs or requests"})


def _ranged(request: Request, reply: Reply) -> Reply:
    """A part of the reply, where one was asked for and the condition on its ETag holds."""
    asked = request.headers.get("range", "")
    reply.headers["Accept-Ranges"] = "bytes"
    if not asked.startswith("bytes=") or request.headers.get("if-range") != reply.headers["ETag"]:
        return reply
    start = int(asked.removeprefix("bytes=").rstrip("-"))
    reply.headers["Content-Range"] = f"bytes {start}-{len(reply.body) - 1}/{len(reply.body)}"
    return replace(reply, status=206, body=reply.body[start:])
