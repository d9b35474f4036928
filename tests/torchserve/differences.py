"""Where this server answers otherwise than TorchServe 0.12.0, and why: this is all, since the comparison allows nothing else."""

from tests.torchserve.difference import (
    Difference,
    bad,
    echoed,
    error,
    failed,
    headers,
    invalid,
    longer,
    native,
    no_path,
    no_such,
    replaced,
    titled,
    unlisted,
)

NOT_COMPARED = {
    "phrase": "the phrase after a status is the HTTP library's own; RFC 9112 tells clients to ignore it",
}
"""Parts of an answer that are not compared, and why."""

ADDED_HEADERS = {
    "server": "granian, which speaks HTTP for this server, tells its name",
    "date": "RFC 9110 asks a server with a clock to send it",
    "retry-after": "where a worker may be free soon, a client is told when to ask again",
    "x-traceback-id": "the handler's traceback stands in the log under this id",
    "allow": "RFC 9110 asks for it with a 405",
}
"""Headers that TorchServe does not send, and why this server does."""

ADDED_METRICS = ("stateserve_", "process_", "python_")
"""This server's own metrics begin with one of these; they follow TorchServe's, and stand there in every metrics_mode."""

_CASE = "HTTP libraries give headers' names in lower case; handlers see each word capitalized, and ask in any case"
_JAVA = "TorchServe lets an exception of Java's show; this server says what is wrong with the request"
_NO_URI = "what is no HTTP request is refused before this server sees it"
_BARE = {"headers": {"x-request-id": None, "pragma": None, "cache-control": None, "expires": None}, "body": ""}
_OWN_API = "the Open Inference Protocol, its documentation, /ready and /metrics of this server stay on the inference port"
_WORKFLOWS = "there are no workflows here"
_STATUS = "a status that no answer can have is an error of the handler"
_CLIENT = "a client that waited for longer than clientTimeoutInMills is told so; TorchServe never answers it"
_FORMS = "a form that cannot be read is refused; TorchServe predicts without its fields"
_LENIENT = "what is wrong in a form and does no harm is taken as it is, where TorchServe fails"
_MESSAGE = "the message says more, so that the archive can be mended"
_EARLY = "what an archive lacks is told when it is registered, not when its first worker ends"
_NAMES = "a model's name is part of paths: only such names are taken as torch-model-archiver gives"
_NOT_LEFT = "a model whose registration fails is not left behind without workers"
_PARAMETERS = "a batch size or a time below what it can be is taken as it would be if it were not there"
_DELAY = "a registration by JSON without max_batch_delay gets the default, not -10000 ms"
_NEGATIVE = "a number of workers below 0 is refused, and changes nothing"
_NO_JSON = "The body is not JSON: "
_LENIENT_JSON = "JSON without quotes is none"
_RUNTIME = "there is no C++ backend here"

_URLENCODED = "application/x-www-form-urlencoded"
_MULTIPART = "multipart/form-data; boundary=edge"
_DELAYS = "JSON|JSON with (strings|charset|unknown keys|camel case)|JSON in capitals"

DIFFERENCES: tuple[Difference, ...] = (
    # HTTP
    Difference(_CASE, "(?!.*customized).*", titled),
    Difference(
        _CASE,
        r"scaling: .*customized=true \(with a worker that echoes\)",
        replaced(('        "content-length": "0",\n', ""), ('        "Host"', '        "Content-Length": "0",\n        "Host"')),
    ),
    Difference(_NO_URI, r"inference: inference POST /predictions/(nobody\?x=<a>&y='b'|<script>)", {"status": 400, **_BARE}),
    Difference(_NO_URI, r"inference: \w+ GET  \(no target\)", _BARE),
    Difference(
        "a whole URL as a request's target is taken by its path (RFC 9112)",
        "inference: inference POST http://torchserve.test/predictions/echo",
        echoed({"body": ["str", "ping"]}, 4, "text/plain", "text/plain"),
    ),
    Difference(_JAVA, r"inference: \w+ \w+ \*", no_path()),
    Difference(_JAVA, "inference: inference POST /%", no_path()),
    Difference(_JAVA, "inference: inference POST /predictions/%zz", no_such("%zz")),
    Difference(
        "a request line may be longer than 4096 bytes",
        "inference: inference POST /predictions/e{5000}",
        {"status": 404, "body": {"length": 5088, "sha256": "3e16ef7bc063bb8e8a89c45086f8e122508b553a4a8b2e08adb2150fdde3d77c"}},
    ),
    Difference(
        "headers may be larger than 8192 bytes",
        r"limits: .* \(headers of 9 kB\)",
        lambda kept: {
            **headers(**{"content-type": "usual"})(kept),
            "status": 200,
            "body": {"length": 9295, "sha256": "7541167d36aedec8eea4aca460fb5646e95bad8cfa77ef7e8df4911c536b8bd2"},
        },
    ),
    Difference(
        "to `connection: close` the answer is the same (RFC 9112)",
        r"inference: .* \(header: close\)",
        headers(connection="close"),
    ),
    Difference(
        "handlers see `Expect`, as every other header",
        r"bodies: .* \(expects 100\)",
        replaced(('    "Host"', '    "Expect": "100-continue",\n    "Host"')),
    ),
    Difference(
        "after 413 the connection is closed, since the body was not read, and the answer says so",
        r"limits: .* \((\d+ bytes|too much.*)\)",
        headers(connection="usual"),
    ),
    # What stands on the inference port besides
    Difference(
        _OWN_API,
        r"(inference|open_inference_protocol): inference (POST /v2/models/nobody/infer|GET /v2/models/nobody(/ready)?)",
        native(404, """{"error":"no model is called 'nobody'; there are: none"}"""),
    ),
    Difference(
        _OWN_API,
        r"inference: inference POST /v2/models/echo/versions/1.0/infer"
        r"|open_inference_protocol: inference GET /v2/models/echo(/ready)?",
        native(404, """{"error":"no model is called 'echo'; there are: none"}"""),
    ),
    Difference(
        _OWN_API,
        r"inference: inference POST /v2(/|/models/echo|/models/echo/ready|/health/live|/health/ready)?"
        r"|open_inference_protocol: inference POST /v2/models(/\w+|/\w+/ready)?",
        native(405, '{"error":"{call}: Method Not Allowed"}'),
    ),
    Difference(
        _OWN_API,
        r"open_inference_protocol: inference \w+ /v2/(health|health/other|other)",
        native(404, '{"error":"{call}: Not Found"}'),
    ),
    Difference(_OWN_API, "open_inference_protocol: inference GET /v2/models", native(200, '{"models":[]}')),
    Difference(
        _OWN_API,
        "inference: inference POST /(docs|openapi.json|metrics|ready)",
        native(405, '{"code":405,"type":"MethodNotAllowed","message":"{call}: Method Not Allowed"}'),
    ),
    Difference(_WORKFLOWS, "inference: inference POST /wfpredict/flow|registering: management .* /workflows(/flow)?", no_path()),
    # Forms
    Difference(_JAVA, r"bodies: .* \(form: no name\)", bad("A field of the form has no name.")),
    Difference(_JAVA, r"bodies: .* \((file without a name|no name)\)", bad("A part of the form has no name.")),
    Difference(
        _LENIENT,
        r"bodies: .* \(form: bad percent\)",
        echoed({"a": ["bytearray", "%zz"], "b": ["bytearray", "%"]}, 9, _URLENCODED),
    ),
    Difference(
        _LENIENT,
        r"bodies: .* \(form: separators\)",
        echoed({"a": ["bytearray", "1"], "b": ["bytearray", "2"]}, 12, _URLENCODED),
    ),
    Difference(
        _LENIENT,
        r"bodies: .* \(file in base64\)",
        echoed({"data": ["bytearray", "aGVsbG8="]}, 124, _MULTIPART, "application/octet-stream"),
    ),
    Difference(
        _LENIENT,
        r"bodies: .* \('multipart/form-data; boundary='\)",
        echoed({"body": ["bytearray", '{"a": [1, 2.5, "Ã¼"]}']}, 21, "multipart/form-data; boundary=", "multipart/form-data"),
    ),
    Difference("a field's name is taken as it is", r"bodies: .* \(strange name\)", replaced(("a b c d", "a b;c=d"))),
    Difference(
        _FORMS,
        r"""bodies: .* \('multipart/form-data; boundary="edge"'\)""",
        bad("The multipart form cannot be read: Expected boundary character 45, got 123 at index 2"),
    ),
    Difference(
        _FORMS,
        r"bodies: .* \(another edge\)",
        bad("The multipart form cannot be read: Expected boundary character 101, got 111 at index 4"),
    ),
    Difference(_FORMS, r"bodies: .* \(no end\)", bad("The multipart form breaks off: its last boundary is missing.")),
    # Handlers
    *(
        Difference(
            _STATUS,
            rf"handlers: .* \(status {status}\)",
            failed(f"The handler's status is {status}, which no answer can have."),
        )
        for status in (0, 99, -1)
    ),
    Difference(
        "granian passes no header on whose value is not ASCII",
        r"inference: .* \(header: UTF-8\)",
        replaced(('    "X-Name": "gr\\u00c3\\u00bc\\u00c3\\u009fe",\n', "")),
    ),
    Difference(
        "headers are sent in UTF-8", r"handlers: .* \(header UTF-8 value\)", headers(**{"x-name": "gr\u00c3\u00bc\u00c3\u009fe"})
    ),
    Difference(
        "a handler's own header ts_stream_next makes no stream that never ends",
        r"handlers: .* \(header of a stream\)",
        {"status": 200, "headers": {"ts_stream_next": "false"}, "body": "done"},
    ),
    Difference(_CLIENT, r"troubles: .*/impatient \(busy\)", {"status": 200, "headers": {}, "body": "awake"}),
    Difference(
        _CLIENT,
        r"troubles: .*/impatient \(waits .*\)",
        error(
            503,
            "ServiceUnavailableException",
            'Model "impatient" had no idle worker within clientTimeoutInMills, 300 ms. Please ask again later.',
        ),
    ),
    # Registering
    Difference(
        _MESSAGE,
        r"registering: .*=not_a_zip.mar .*|scaling: .*/not_a_zip.mar .*",
        invalid(
            "not_a_zip.mar is refused: it begins with the bytes 74 68 69 73. An archive is a zip file, a gzipped tar file or a "
            "folder: make it by torch-model-archiver."
        ),
    ),
    *(
        Difference(
            _MESSAGE,
            rf"registering: .*url={name}.mar.*",
            longer(
                f"MAR-INF/MANIFEST.json of {name}.mar has no modelName: give model_name, or pack it with torch-model-archiver."
            ),
        )
        for name in ("no_model", "no_name")
    ),
    Difference(
        _MESSAGE,
        "registering: .*url=no_manifest.mar.*",
        longer(
            "no_manifest.mar has no MAR-INF/MANIFEST.json at its root: give model_name, or pack it with torch-model-archiver."
        ),
    ),
    Difference(
        _MESSAGE,
        "registering: .*url=bad_manifest.mar.*",
        longer(
            "MAR-INF/MANIFEST.json of bad_manifest.mar: it is not JSON: Expecting property name enclosed in double quotes: "
            "line 1 column 2 (char 1). Pack it again with torch-model-archiver."
        ),
    ),
    Difference(
        _MESSAGE,
        "registering: .*url=bad_runtime.mar.*",
        longer("That of bad_runtime.mar is 'ruby': it should be python or python3."),
    ),
    Difference(
        _EARLY,
        "registering: .*url=bad_config.mar.*",
        invalid(
            "Failed to parse model config file model-config.yaml: it is not YAML: while parsing a flow node did not find "
            'expected node content in "<unicode string>", line 2, column 1. Mend it, and pack the archive again.'
        ),
    ),
    Difference(_EARLY, r"registering: management DELETE /models/bad_config .*", no_such("bad_config")),
    Difference(
        _EARLY,
        r"(registering|bad_models): management POST /models\?url=no_handler.mar.*",
        invalid(
            "Handler is not defined. Neither MAR-INF/MANIFEST.json of no_handler.mar nor the registration names one: give "
            "handler, or set default_service_handler."
        ),
    ),
    Difference(_EARLY, r"registering: management (GET|DELETE) /models/no_handler .*", no_such("no_handler")),
    Difference(_EARLY, r"registering: management GET /models \(after the strange ones\)", unlisted("no_handler")),
    *(
        Difference(
            _NAMES,
            rf"registering: management POST /models\?url=echo.mar&model_name={asked} .*",
            invalid(
                f"The model name {name!r} of echo.mar is not one: it should be 1 to 255 letters, digits, _, - and dots, the "
                "first a letter or a digit. Give another model_name."
            ),
        )
        for asked, name in (("a%20b", "a b"), ("a/b", "a/b"))
    ),
    Difference(_NAMES, r"registering: management (GET|DELETE) /models/a%20b .*", no_such("a b")),
    Difference(_NAMES, r"registering: management GET /models \(with strange names\)", unlisted("a b")),
    Difference(
        "a file URL may only name a file in the model store",
        "registering: .*url=file:///etc/passwd .*",
        error(404, "ModelNotFoundException", "Given URL file:///etc/passwd is not a file in the model store"),
    ),
    Difference(
        _JAVA,
        "registering: .*url=http:// .*",
        error(400, "DownloadArchiveException", "Failed to download archive from: http://: its path ends with no file's name"),
    ),
    Difference(
        _JAVA, r"registering: .*url=echo%00.mar .*", error(404, "ModelNotFoundException", "Model not found at: echo\0.mar")
    ),
    Difference(
        _PARAMETERS,
        r"registering: .*GET /models/echo \(registered with batch_size=-1&.*",
        replaced(
            ('"maxBatchDelay": -2', '"maxBatchDelay": 100'), ('Timeout": -3', 'Timeout": 120'), ('Timeout": -4', 'Timeout": 120')
        ),
    ),
    Difference(
        _PARAMETERS,
        r"registering: .*GET /models/echo \(registered with batch_size=0&.*",
        replaced(('"batchSize": 0', '"batchSize": 1')),
    ),
    Difference(
        _DELAY,
        rf"registering: management GET /models/echo \(registered by (body: ({_DELAYS})|query and body)\)",
        replaced(('"maxBatchDelay": -10000', '"maxBatchDelay": 100')),
    ),
    Difference(
        _RUNTIME,
        r"registering: .*url=echo.mar&runtime=LSP .*",
        invalid("Runtime is not defined or invalid. That of echo.mar is 'LSP': C++ handlers have no worker here."),
    ),
    Difference(_RUNTIME, r"registering: .*(registered with|after) runtime=LSP\)", no_such("echo")),
    *(
        Difference(_JAVA, rf"registering: management POST /models \(body: {note}\)", bad(message))
        for note, message in (
            ("JSON with a fraction", "batch_size should be a whole number, not 1.5"),
            ("JSON with a wrong type", "batch_size should be a whole number, not many"),
            ("JSON (number|list|null)", "The body should be a JSON object."),
            ("bad JSON", f"{_NO_JSON}Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
            ("empty JSON", f"{_NO_JSON}Expecting value: line 1 column 1 (char 0)"),
        )
    ),
    Difference(
        _LENIENT_JSON,
        r"registering: management POST /models \(body: lenient JSON\)",
        bad(f"{_NO_JSON}Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
    ),
    Difference(_LENIENT_JSON, r"registering: management (GET|DELETE) /models/echo .*body: lenient JSON\)", no_such("echo")),
    Difference(
        _JAVA,
        r"registering: .*\(body: JSON with a wrong list\)",
        bad('url should be a text, a number, or true or false, not ["echo.mar"]'),
    ),
    # Workers
    Difference(_NEGATIVE, r"scaling: .*min_worker=-1.*", failed("min_worker cannot be less than 0: -1")),
    Difference(
        _NOT_LEFT,
        r"dependencies: .*url=needs_bad.mar&initial_workers=0",
        error(400, "ModelException", "Custom pip package installation failed for model needs_bad"),
    ),
    Difference(_NOT_LEFT, "dependencies: management GET /models", unlisted("needs_bad")),
)
