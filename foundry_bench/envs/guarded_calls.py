"""MuJoCo's C functions, called from code that numba compiles.

A function is called by its address, so that compiled code holds nothing of this process and can be cached.
numba's cache notices a change of the file that is compiled, not one of this file: touch those that use it.

MuJoCo reports what it cannot go on from, such as a full stack, by calling an error handler that must not
return; without one it ends the process. Its Python bindings jump out of the handler with ``longjmp`` and
raise ``mujoco.FatalError``. So does this: `call` is false where MuJoCo has failed, `failure` says why.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from foundry_bench.envs.mujoco_library import library

_MESSAGE_BYTES = 1024  # MuJoCo's own limit
_JUMP_BYTES = 1024  # a jmp_buf takes 200 bytes on x86-64, 312 on aarch64
#: What `call` needs to catch an error, in the order in which `addresses` puts it before the functions.
_HANDLING = ("_mjPRIVATE__get_tls_error_fn", "_mjPRIVATE__set_tls_error_fn")
FIRST = len(_HANDLING) + 1  # where the functions' addresses begin

_BYTE, _WORD = ir.IntType(8), ir.IntType(64)
_POINTER = _BYTE.as_pointer()
_HANDLER = ir.FunctionType(ir.VoidType(), [_POINTER])

_message = np.zeros(_MESSAGE_BYTES, dtype=np.uint8)


def addresses(names: tuple[str, ...]) -> np.ndarray:
    """What `call` takes: int64 of shape (FIRST + n,), the functions from `FIRST` on.

    Raises:
        OSError: no library.
        AttributeError: the library has no such function.
    """
    found = [ctypes.cast(getattr(library(), name), ctypes.c_void_p).value for name in (*_HANDLING, *names)]
    found.insert(len(_HANDLING), _message.ctypes.data)
    return np.array(found, dtype=np.int64)


def failure() -> str:
    """What MuJoCo said when `call` was last false."""
    return _message.tobytes().partition(b"\0")[0].decode(errors="replace")


def _call(typing: Any, table: Any, function: Any, arguments: Any) -> Any:
    """``call(table, function, (a, b, ...))``: call a function without a result; whether it came back.

    Only for compiled code that holds the interpreter's lock: there is one place to jump back to.

    Args:
        table: what `addresses` made.
        function: number of the function in it.
        arguments: pointers and integers, all as int64, which every 64-bit calling convention puts where a
            narrower integer would be.
    """
    signature = types.boolean(table, types.int64, types.UniTuple(types.int64, len(arguments)))

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, values[0])

        def entry(index: Any) -> Any:
            return builder.load(builder.gep(array.data, [index]))

        head = [entry(ir.Constant(_WORD, index)) for index in range(FIRST)]
        words = cgutils.unpack_tuple(builder, values[2])
        return builder.call(_guard(builder.module, len(words)), [*head, entry(values[1]), *words])

    return signature, generate


call: Any = intrinsic(_call)


def _guard(module: ir.Module, count: int) -> ir.Function:
    """``bool guard(get, set, message, function, arguments...)`` in LLVM's language, made once per module.

    It is a function of its own because LLVM must treat a caller of ``_setjmp`` with care.
    """
    name = f"foundry_bench_guard_{count}"
    if name in module.globals:
        return module.globals[name]
    kind = ir.FunctionType(ir.IntType(1), [_WORD] * (FIRST + 1 + count))
    guard = ir.Function(module, kind, name)
    guard.linkage = "internal"
    guard.attributes.add("noinline")
    setjmp = cgutils.get_or_insert_function(module, ir.FunctionType(ir.IntType(32), [_POINTER]), "_setjmp")
    setjmp.attributes.add("returns_twice")
    get, set_, message, function, *arguments = guard.args
    builder = ir.IRBuilder(guard.append_basic_block("entry"))
    jump = builder.alloca(_BYTE, _JUMP_BYTES)
    jump.align = 16
    get = builder.inttoptr(get, ir.FunctionType(_HANDLER.as_pointer(), []).as_pointer())
    set_ = builder.inttoptr(set_, ir.FunctionType(ir.VoidType(), [_HANDLER.as_pointer()]).as_pointer())
    previous = builder.call(get, [])
    builder.store(jump, _global(module, "foundry_bench_jump"))
    builder.store(builder.inttoptr(message, _POINTER), _global(module, "foundry_bench_message"))
    jumped = builder.icmp_signed("!=", builder.call(setjmp, [jump]), ir.Constant(ir.IntType(32), 0))
    failed, goes_on = guard.append_basic_block("failed"), guard.append_basic_block("goes_on")
    builder.cbranch(jumped, failed, goes_on)
    builder.position_at_end(goes_on)
    builder.call(set_, [_handler(module)])
    target = ir.FunctionType(ir.VoidType(), [_WORD] * count).as_pointer()
    builder.call(builder.inttoptr(function, target), arguments)
    builder.call(set_, [previous])
    builder.ret(ir.Constant(ir.IntType(1), 1))
    builder.position_at_end(failed)
    builder.call(set_, [previous])
    builder.ret(ir.Constant(ir.IntType(1), 0))
    return guard


def _handler(module: ir.Module) -> ir.Function:
    """``void handler(const char *text)``: keep the text, jump back."""
    name = "foundry_bench_handler"
    if name in module.globals:
        return module.globals[name]
    handler = ir.Function(module, _HANDLER, name)
    handler.linkage = "internal"
    insert = cgutils.get_or_insert_function
    copy = insert(module, ir.FunctionType(_POINTER, [_POINTER, _POINTER, _WORD]), "strncpy")
    longjmp = insert(module, ir.FunctionType(ir.VoidType(), [_POINTER, ir.IntType(32)]), "longjmp")
    builder = ir.IRBuilder(handler.append_basic_block("entry"))
    target = builder.load(_global(module, "foundry_bench_message"))
    builder.call(copy, [target, handler.args[0], ir.Constant(_WORD, _MESSAGE_BYTES - 1)])
    builder.call(
        longjmp, [builder.load(_global(module, "foundry_bench_jump")), ir.Constant(ir.IntType(32), 1)]
    )
    builder.unreachable()
    return handler


def _global(module: ir.Module, name: str) -> ir.GlobalVariable:
    """A pointer that guard and handler share."""
    if name in module.globals:
        return module.globals[name]
    found = ir.GlobalVariable(module, _POINTER, name)
    found.linkage = "internal"
    found.initializer = ir.Constant(_POINTER, None)
    return found
