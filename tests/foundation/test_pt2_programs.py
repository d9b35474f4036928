"""The program in a .pt2 is JSON that PyTorch evaluates: what is more than arithmetic of tensors is found before it does."""

import io
import json
import shutil
import zipfile

import pytest

import artifact
from artifact import golden
from artifact.errors import EngineUnavailable
from foundation.pt2 import pt2_pickles

PROGRAM = "archive/models/model.json"


def archive(program, name=PROGRAM):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(name, program if isinstance(program, (str, bytes)) else json.dumps(program))
    return buffer


def size(expression):
    """A program in which one size is this expression."""
    return {"graph_module": {"graph": {"tensor_values": {"x": {"sizes": [{"as_expr": {"expr_str": expression}}]}}}}}


def node(target):
    return {"graph_module": {"graph": {"nodes": [{"target": target, "inputs": []}]}}}


@pytest.mark.parametrize(
    "expression",
    [
        "Symbol('s77', positive=True, integer=True)",
        "Mul(Integer(32), Symbol('s1', positive=True, integer=True))",
        "Max(Integer(1), Symbol('u0', integer=True))",
        "FloorDiv(Symbol('s0', positive=True, integer=True), Integer(2))",
        "Add(Symbol('s0', positive=True, integer=True), Integer(-1))",
        "Eq(Symbol('s0', positive=True, integer=True), Integer(4))",
    ],
)
def test_arithmetic_of_sizes(expression):
    """What sympy writes for a size of ours is let through."""
    assert pt2_pickles(archive(size(expression))) == ()


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "__import__('os').system('true') or Symbol('s77')",
        "Symbol('s77', positive=True, integer=True).__class__",
        "Symbol('s77').func(open('x'))",
        "Symbol('__import__')",
        "Symbol(open('x'))",
        "exec(1)",
        "eval(Symbol('s0'))",
        "getattr(s0, s1)",
        "lambda: 0",
        "[s0 for s0 in ()]",
        "s0; s1",
        "s0\\u002e__class__",
        "s0\n.func",
        "sympify(1)",
        "System(1)",
        "\uff45xec(1)",
        ["s0"],
        {"s0": 1},
        7,
        None,
    ],
    ids=repr,
)
def test_expressions_that_are_more_than_arithmetic(expression):
    """A name, an attribute, a string or a call of anything else is found: sympy would evaluate it as Python."""
    assert pt2_pickles(archive(size(expression))) == (PROGRAM,)


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.mul.Tensor",
        "torch.ops.aten.sym_size.int",
        "torch.ops.prims.convert_element_type.default",
        "_operator.floordiv",
        "torch.sym_max",
    ],
)
def test_operators_of_a_program(target):
    """ATen's operators, and arithmetic on sizes."""
    assert pt2_pickles(archive(node(target))) == ()


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.hub.load",
        "torch.load",
        "torch.ops.load_library",
        "torch.ops.aten.__class__.mro",
        "torch.ops.aten.mul.__class__",
        "torch.ops.os.system",
        "torch.ops.aten.mul.Tensor.__globals__.get",
        "torch.sym_max.__globals__",
        "torch.ops.aten.mul.Tensor\n",
        "_operator.methodcaller",
        "_operator.attrgetter",
        "math.__loader__.load_module",
        "os.system",
    ],
    ids=repr,
)
def test_targets_that_are_no_operators(target):
    """PyTorch looks a target up from `torch` down, wherever that leads."""
    assert pt2_pickles(archive(node(target))) == (PROGRAM,)


SAME_SIZE = "L['mask'].size()[1] == L['ids'].size()[1]"


@pytest.mark.parametrize("guards", [[], [SAME_SIZE], [SAME_SIZE, SAME_SIZE]])
def test_guards_on_sizes(guards):
    """A capture of two inputs that share a dimension says so, and nothing else."""
    assert pt2_pickles(archive({"guards_code": guards})) == ()


@pytest.mark.parametrize(
    "guards",
    [
        ["__import__('os').getcwd()"],
        [f"{SAME_SIZE} and exec('1')"],
        [f"{SAME_SIZE}\nexec('1')"],
        ["L[exec('1')].size()[0] == 1"],
        "x",
        {"a": 1},
    ],
    ids=repr,
)
def test_guards_that_are_more_than_sizes(guards):
    """Guards are compiled as Python when the program is."""
    assert pt2_pickles(archive({"guards_code": guards})) == (PROGRAM,)


@pytest.mark.parametrize("program", [b"", b"not json", b'{"a": ', b"[" * 100_000], ids=["empty", "no JSON", "cut off", "deep"])
def test_programs_that_cannot_be_judged(program):
    """What the scan cannot read counts as found."""
    assert pt2_pickles(archive(program)) == (PROGRAM,)


def test_an_entry_that_stands_twice():
    """Of two entries of one name every reader takes another: the worse is found, or both."""
    program = '{"expr_str": "exec(1)", "expr_str": "s0"}'

    assert json.loads(program) == {"expr_str": "s0"}  # PyTorch reads it with this same module
    assert pt2_pickles(archive(program)) == ()


@pytest.mark.parametrize("name", ["archive/models/other.json", "models/model.json", "other/models/model.json"])
def test_programs_under_other_names(name):
    """Wherever a reader could look for one."""
    assert pt2_pickles(archive(size("exec(1)"), name)) == (name,)


@pytest.mark.parametrize(
    "name",
    [
        "archive/models/modelXjson",
        "archive/models/deeper/model.json",
        "archive/data/aotinductor/model/model.wrapper.so",
    ],
)
def test_members_that_our_export_does_not_write(name):
    """PyTorch takes whatever lies below models/ for a program, and below data/aotinductor/ for a library to load."""
    assert pt2_pickles(archive(b"", name)) == (name,)


@pytest.mark.parametrize("name", ["x=open('y')", "x: open('y')", "x)", "x, y", "x;y", "x y", "x\ny"])
def test_names_that_are_no_identifiers(name):
    """PyTorch writes the name of an input into the program's source, which it compiles: `x=open('y')` is a default argument."""
    inputs = {"graph_module": {"graph": {"inputs": [{"as_tensor": {"name": name}}]}}}
    arguments = {"graph_module": {"module_call_graph": [{"signature": {"forward_arg_names": [name]}}]}}

    assert pt2_pickles(archive(inputs)) == (PROGRAM,)
    assert pt2_pickles(archive(arguments)) == (PROGRAM,)


@pytest.mark.parametrize(
    ("kind", "context"),
    [
        ("builtins.dict", '{"__enum__": true, "fqn": "os:path", "name": "x"}'),
        ("builtins.dict", '["x=open(1)"]'),
        ("collections.defaultdict", '{"default_factory_module": "os", "default_factory_name": "system", "dict_context": []}'),
    ],
    ids=["enum", "keyword", "defaultdict"],
)
@pytest.mark.parametrize("key", ["in_spec", "out_spec"])
def test_forms_of_arguments(key, kind, context):
    """A form may name a module to import, or a keyword that is written into source."""
    leaf = {"type": None, "context": None, "children_spec": []}
    spec = json.dumps([1, {"type": kind, "context": context, "children_spec": [leaf]}])

    assert pt2_pickles(archive({"graph_module": {"module_call_graph": [{"signature": {key: spec}}]}})) == (PROGRAM,)


def test_an_operator_as_an_argument():
    """It is looked up as a target is."""
    argument = {"graph_module": {"graph": {"nodes": [{"inputs": [{"arg": {"as_operator": "torch.os.system"}}]}]}}}

    assert pt2_pickles(archive(argument)) == (PROGRAM,)


# ---- whole artifacts ----


@pytest.fixture
def changed(mlp_artifact, tmp_path, rehash):
    """A function that passes the program's text through another, in a copy of an artifact whose hashes are made right again."""

    def change(function, name=PROGRAM):
        copy = shutil.copytree(mlp_artifact, tmp_path / "mlp" / "1")
        path = copy / "model.pt2"
        buffer = io.BytesIO()
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as new:
            for member in old.infolist():
                data = old.read(member)
                is_program = member.filename == PROGRAM
                if is_program:
                    new.writestr(name, json.dumps(function(json.loads(data))))
                if not is_program or name != PROGRAM:
                    new.writestr(member.filename, data)
        path.write_bytes(buffer.getvalue())
        rehash(copy)
        return copy

    return change


def everywhere(value, key, function):
    """The value, with every entry of that key passed through the function."""
    if isinstance(value, list):
        return [everywhere(item, key, function) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: function(item) if name == key else everywhere(item, key, function) for name, item in value.items()}


@pytest.mark.parametrize("kind", ["expression", "in place of a symbol", "operator", "guard"])
def test_a_program_that_would_run_code(changed, tmp_path, kind):
    """An artifact with every hash made right is refused, and nothing of it runs."""
    mark = tmp_path / "ran"
    code = f"__import__('os').system('touch {mark}')"

    def spoil(program):
        if kind == "operator":
            return everywhere(program, "target", lambda target: "torch.os.system" if isinstance(target, str) else target)
        if kind == "guard":
            return {**program, "guards_code": [code]}
        spoilt = code if kind == "expression" else f"{code} or Symbol('s77')"
        return everywhere(program, "expr_str", lambda _: spoilt)

    copy = changed(spoil)

    with pytest.raises(EngineUnavailable) as caught:
        artifact.load(copy, engine="pt2")
    assert PROGRAM in str(caught.value)
    assert not mark.exists()


def test_a_second_program(changed, tmp_path):
    """PyTorch loads every member below models/, whatever it is called."""
    mark = tmp_path / "ran"
    name = "archive/models/modelXjson"  # five characters from the end off: `model` again
    code = f"__import__('os').system('touch {mark}')"

    copy = changed(lambda program: everywhere(program, "expr_str", lambda _: code), name)

    with pytest.raises(EngineUnavailable, match=name):
        artifact.load(copy, engine="pt2")
    assert not mark.exists()


def test_a_name_that_is_source(changed, tmp_path):
    """An input's name with a default value would be evaluated when the program is compiled."""
    mark = tmp_path / "ran"
    code = f"x=__import__('os').mkdir('{mark}')"

    copy = changed(lambda program: json.loads(json.dumps(program).replace('"x"', json.dumps(code))))

    with pytest.raises(EngineUnavailable, match=PROGRAM):
        artifact.load(copy, engine="pt2")
    assert not mark.exists()


def test_the_same_program_untouched(changed):
    """What is refused above is what was put in, not the archive's being written again."""
    copy = changed(lambda program: program)

    golden.require(artifact.load(copy, engine="pt2").replay())
