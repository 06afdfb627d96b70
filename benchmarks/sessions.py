"""A session of the dashboard without a browser: Streamlit's own protocol over a websocket, as its page speaks it.

A session opens pages by their address, changes widgets by their key, and says what came back: how long it took, how
much it was, which elements stand there now. `Reply.seconds` is the server's time for one rerun as a client sees it:
from the sending of the request to the arrival of "script finished", with the callbacks, the script and the
serialisation of its elements; what a browser does with them (parsing, drawing) is not in it. No message is cached, so
every element travels each time: an upper bound of what a browser is sent.

Streamlit promises nothing about this protocol; the version is pinned in constraints.txt.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.sync.client import connect

TIMEOUT_SECONDS = 300.0  # for what hangs


class Reply(NamedTuple):
    """`elements` by their place on the page, `n_bytes` received, `query` the address's parameters afterwards."""

    seconds: float
    n_bytes: int
    elements: dict[tuple[int, ...], Any]
    query: dict[str, str]

    def of_kind(self, kind: str) -> list[Any]:
        return [getattr(one, kind) for one in self.elements.values() if one.WhichOneof("type") == kind]

    @property
    def words(self) -> str:
        texts = [
            one.body for kind in ("markdown", "heading", "code") for one in self.of_kind(kind) if hasattr(one, "body")
        ]
        return "\n".join(texts).replace("\\", "")

    @property
    def errors(self) -> list[str]:
        return [f"{one.type}: {one.message}" for one in self.of_kind("exception")]


class Session:
    """One tab. `with Session(address) as tab: tab.open("explore", run="x", task="nli")`."""

    def __init__(self, address: str):
        self._socket = connect(
            address.replace("http://", "ws://") + "/_stcore/stream", subprotocols=["streamlit"],  # type: ignore[list-item]
            max_size=None, proxy=None, compression=None,
        )  # fmt: skip
        self._page, self._query = "", ""
        self._widgets: dict[str, WidgetState] = {}
        self._elements: dict[tuple[int, ...], Any] = {}

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def open(self, page: str = "", /, **query: str) -> Reply:
        """Goes to a page by its address, as a link does: "" is the overview."""
        self._widgets.clear()
        self._elements.clear()
        self._query = urlencode(query)
        return self._rerun(page_name=page)

    def again(self) -> Reply:
        """The same page once more, as after any widget that changes nothing."""
        return self._rerun(page_script_hash=self._page)

    def change(self, key: str, **value: Any) -> Reply:
        """Sets the widget whose key begins with `key`; `value` is of its kind, such as `int_value=3`,
        `string_value="x"`, `double_array_value=[0.1, 0.5]`."""
        return self._set(self.widget(key).id, value)

    def press(self, label: str) -> Reply:
        """The button of that label."""
        button = next(
            one.button
            for one in self._elements.values()
            if one.WhichOneof("type") == "button" and one.button.label == label
        )
        return self._set(button.id, {"trigger_value": True})

    def _set(self, id_: str, value: dict[str, Any]) -> Reply:
        state = WidgetState(id=id_)
        for name, content in value.items():
            if isinstance(content, list):
                getattr(state, name).data.extend(content)
            else:
                setattr(state, name, content)
        self._widgets[state.id] = state
        reply = self._rerun(page_script_hash=self._page)
        if "trigger_value" in value:
            del self._widgets[state.id]
        return reply

    def widget(self, key: str) -> Any:
        """The widget on the page whose key begins with `key`."""
        for element in self._elements.values():
            found = getattr(element, element.WhichOneof("type"))
            # "$$ID-<digest>-<key>"
            parts = str(getattr(found, "id", "")).split("-", 2)
            if parts[0] == "$$ID" and parts[-1].startswith(key):
                return found
        raise KeyError(f"no widget '{key}' on this page")

    def _rerun(self, **place: str) -> Reply:
        state = ClientState(query_string=self._query, **place)
        state.widget_states.widgets.extend(self._widgets.values())
        request = BackMsg(rerun_script=state).SerializeToString()
        n_bytes, fresh = 0, {}
        started = time.perf_counter()
        self._socket.send(request)
        while True:
            raw = self._socket.recv(TIMEOUT_SECONDS)
            n_bytes += len(raw)
            message = ForwardMsg.FromString(raw)  # type: ignore[arg-type]
            kind = message.WhichOneof("type")
            if kind == "delta" and message.delta.HasField("new_element"):
                fresh[tuple(message.metadata.delta_path)] = message.delta.new_element
            elif kind == "new_session":
                fresh = {}
            elif kind == "navigation":
                self._page = message.navigation.page_script_hash
            elif kind == "page_info_changed":
                self._query = message.page_info_changed.query_string
            elif kind == "script_finished" and message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY:
                break
            elif kind == "script_finished" and message.script_finished == ForwardMsg.FINISHED_WITH_COMPILE_ERROR:
                raise RuntimeError("the page does not compile")
        self._elements = fresh
        return Reply(time.perf_counter() - started, n_bytes, fresh, dict(parse_qsl(self._query)))
