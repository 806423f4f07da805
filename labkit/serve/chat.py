"""Build a chat page on the server's API: models side by side, streamed, and read aloud.

A score says which model answers more questions; a conversation shows how. Every model that the
server holds gets a column, and one question goes to all that are chosen, each with its own
history, so that a base model and its fine-tuned self can be compared in the same breath.

The page is a client like any other: it knows the API and not the models. The answers are read
by the *browser's* own speech synthesis (the Web Speech API), so no audio crosses the network
and no model for it is needed. Nothing on the page comes from elsewhere either: fonts and scripts
are those of the installed Gradio, and its usage reports are off.

On a hub the page lies under a prefix such as /user/ada/proxy/7860. The proxy strips the prefix
and names it in the header X-Forwarded-Prefix; `limits.Prefix` hands it on, and the page finds
its parts.
"""

import json
import os
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

# Read once, when gradio is imported: no usage reports, and no look for a newer version.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
import openai
from fastapi import FastAPI

PORT = 7860
TITLE = "labkit chat"
FONTS = ("system-ui", "sans-serif")

QUIET_JS = "() => { if (window.speechSynthesis) window.speechSynthesis.cancel(); }"
SWITCH_JS = "(on) => { if (!on && window.speechSynthesis) window.speechSynthesis.cancel(); }"
# Sentence by sentence: browsers break off a long utterance. Marks of Markdown are not words.
SPEAK_JS = """(on, chosen, turns) => {
  const last = turns && turns[turns.length - 1];
  if (!on || !window.speechSynthesis || !chosen.includes(NAME) || !last) return;
  if (last.role !== "assistant") return;
  const parts = Array.isArray(last.content) ? last.content : [last.content];
  let text = parts.map(p => typeof p === "string" ? p : (p.text || "")).join(" ");
  text = text.replace(/[*_#`|>]/g, " ").trim();
  if (!text) return;
  if (chosen.length > 1) text = NAME + ". " + text;
  for (const sentence of text.match(/[^.!?\\n]+[.!?]*/g) || [text]) {
    if (!sentence.trim()) continue;
    const said = new SpeechSynthesisUtterance(sentence.trim());
    if (/[\\u0400-\\u04ff]/.test(sentence)) said.lang = "ru-RU";
    window.speechSynthesis.speak(said);
  }
}"""


def add_page(
    app: FastAPI, url: str, names: Sequence[str], *, max_tokens: int, root_path: str | None = None
) -> None:
    """Mount the chat page at the root of a server's app.

    `url` is where the server answers, `root_path` the prefix before a proxy that does not name
    it in a header.
    """
    page = build_page(f"{url}/v1", names, max_tokens=max_tokens)
    gr.mount_gradio_app(
        app, page, path="/", root_path=root_path, footer_links=[], run_history=False,
        theme=gr.themes.Default(font=FONTS, font_mono=("ui-monospace", "monospace")),
    )  # fmt: skip


def build_page(api: str, names: Sequence[str], *, max_tokens: int) -> gr.Blocks:
    """Return the page for models served under `names` at the API's base URL."""
    key = os.environ.get("LABKIT_API_KEY") or "none"
    client = openai.AsyncOpenAI(base_url=api, api_key=key, max_retries=0)

    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_height=True) as page:
        with gr.Row(equal_height=True):
            bots = [
                gr.Chatbot(label=name, elem_id=f"bot-{i}", height="60vh", min_width=280,
                           buttons=["copy"], feedback_options=None, allow_tags=False)
                for i, name in enumerate(names)
            ]  # fmt: skip
        box = gr.Textbox(
            "",
            placeholder="Ask the chosen models something", show_label=False, elem_id="question",
            submit_btn="Send", autofocus=True,
        )  # fmt: skip
        with gr.Row():
            chosen = gr.CheckboxGroup(
                list(names), value=list(names), label="Models that answer", elem_id="models",
                scale=4,
            )  # fmt: skip
            aloud = gr.Checkbox(label="Read answers aloud", elem_id="aloud", scale=2, min_width=220)
            stop = gr.Button("Stop", elem_id="stop", scale=1, min_width=90)
            clear = gr.Button("Clear", elem_id="clear", scale=1, min_width=90)
        with gr.Accordion("Settings", open=False):
            system = gr.Textbox("", label="System prompt", lines=2, elem_id="system")
            temperature = gr.Slider(
                0, 2, value=0, step=0.1, label="Temperature (0: always the likeliest token)"
            )
            length = gr.Slider(
                1, max_tokens, value=min(256, max_tokens), step=1, label="Tokens of an answer"
            )

        asked = box.submit(
            _asking(names), [box, chosen, *bots], [box, *bots], api_visibility="private"
        )
        box.submit(None, js=QUIET_JS)
        answers = []
        for name, bot in zip(names, bots, strict=True):
            answer = asked.success(
                _answering(client, name), [chosen, bot, system, temperature, length], bot,
                concurrency_limit=None, show_progress="hidden", stream_every=0.1,
                api_visibility="private",
            )  # fmt: skip
            speak = SPEAK_JS.replace("NAME", json.dumps(name))
            answer.success(None, [aloud, chosen, bot], js=speak)
            answers.append(answer)
        chosen.change(
            lambda picked: [gr.update(visible=name in picked) for name in names], chosen, bots,
            api_visibility="private",
        )  # fmt: skip
        aloud.change(None, aloud, js=SWITCH_JS)
        stop.click(None, cancels=answers, js=QUIET_JS)
        clear.click(lambda: [[] for _ in names], None, bots, js=QUIET_JS, cancels=answers,
                    api_visibility="private")  # fmt: skip
    return page


def _asking(names: Sequence[str]) -> Callable[..., list[Any]]:
    """Return the function that puts a question into the column of every chosen model."""

    def ask(question: str, chosen: list[str], *histories: list[dict]) -> list[Any]:
        if not question.strip():
            raise gr.Error("Write something first.", print_exception=False)
        if not chosen:
            raise gr.Error("Choose at least one model.", print_exception=False)
        turn = {"role": "user", "content": question.strip()}
        return ["", *([*turns, turn] if name in chosen else turns
                      for name, turns in zip(names, histories, strict=True))]  # fmt: skip

    return ask


def _answering(client: openai.AsyncOpenAI, name: str) -> Callable[..., AsyncIterator[list[dict]]]:
    """Return the function that streams one model's answer into its column."""

    async def answer(
        chosen: list[str], turns: list[dict], system: str, temperature: float, length: float
    ) -> AsyncIterator[list[dict]]:
        if name not in chosen or not turns or turns[-1]["role"] != "user":
            yield turns
            return
        messages: Any = [{"role": t["role"], "content": text_of(t["content"])} for t in turns]
        if system.strip():
            messages.insert(0, {"role": "system", "content": system.strip()})
        written = ""
        try:
            stream: Any = await client.chat.completions.create(
                model=name, messages=messages, temperature=temperature,
                max_tokens=int(length), stream=True,
            )  # fmt: skip
            async with stream:  # "Stop" ends it on the server as well
                async for chunk in stream:
                    if chunk.choices and chunk.choices[0].delta.content:
                        written += chunk.choices[0].delta.content
                        yield [*turns, {"role": "assistant", "content": written}]
        except openai.APIError as error:
            raise gr.Error(f"{name}: {error_text(error)}", print_exception=False) from None
        if not written.strip():
            yield [*turns, {"role": "assistant", "content": "(an empty answer)"}]

    return answer


def text_of(content: Any) -> str:
    """Return the text of a chat message in any of Gradio's forms."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        return str(content.get("text", ""))
    return "\n".join(text_of(part) for part in content or [])


def error_text(error: openai.APIError) -> str:
    """Return the sentence in an error of the API."""
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    return str(message or error.message)
