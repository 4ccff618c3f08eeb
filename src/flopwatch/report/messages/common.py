"""Words that every report needs: what is unknown, how things are listed, the kinds of peaks and sources."""

from __future__ import annotations

from typing import Final

COMMON: Final[dict[str, tuple[str, str]]] = {
    "na": ("n/a", "未知"),
    "na_because": ("n/a: {reason}", "未知：{reason}"),
    "none": ("none", "无"),
    "note": ("note: {note}", "注：{note}"),
    "warning": ("warning: {text}", "警告：{text}"),
    "because": ("{what}: {why}", "{what}：{why}"),
    "aside": ("{text} ({aside})", "{text}（{aside}）"),
    # How several things are written in a row.
    "list.items": (", ", "、"),
    "list.parts": (", ", "，"),
    "list.clauses": ("; ", "；"),
    "list.sentences": (" ", ""),
    "list.end": (".", "。"),
    "tokens": ("{n} tokens", "{n} 词元"),
    "tokens_per_s": ("{rate} tokens/s", "{rate} 词元/秒"),
    "samples_per_s": ("{rate} samples/s", "{rate} 样本/秒"),
    "interval": ("{low} to {high}", "{low} 至 {high}"),
    "kind.datasheet": ("datasheet", "数据手册"),
    "kind.measured": ("measured here", "本机实测"),
    "kind.user": ("given", "给定"),
    "kind.notebook": ("notebook's table", "笔记本的表"),
    "source.closed-form": ("closed form", "闭式公式"),
    "source.trace": ("trace of the real module", "对真实模块的追踪"),
    "phase.forward": ("Forward", "前向"),
    "phase.train": ("Training", "训练"),
    "phase.prefill": ("Prefill", "预填充"),
    "phase.decode": ("Decode", "解码"),
    "outcome.ok": ("ran", "跑通"),
    "outcome.oom": ("ran out of memory", "内存不足"),
    "outcome.timeout": ("took too long", "超时"),
    "outcome.crashed": ("crashed", "崩溃"),
    "outcome.killed": ("was killed by the system", "被系统终止"),
    "outcome.not tested": ("was not tried", "未尝试"),
    "runs.none": ("no runs in {path}", "{path} 中没有运行记录"),
    "runs.id": ("ID", "编号"),
    "runs.when": ("WHEN (UTC)", "时间（UTC）"),
    "runs.kind": ("KIND", "命令"),
    "runs.status": ("STATUS", "状态"),
    "runs.kept": ("KEPT", "已存"),
    "runs.asked": ("ASKED", "命令行"),
    "glossary.FLOPs": (
        "floating-point operations, an amount of work; one multiply-add is 2",
        "浮点运算量，即运算的数量；一次乘加（MAC）计为 2",
    ),
    "glossary.FLOP/s": ("a rate of work", "算力，即每秒的浮点运算次数"),
    "glossary.MFU": (
        "model FLOPs that the task needs / time / peak",
        "模型算力利用率：任务所需的模型 FLOPs / 时间 / 峰值",
    ),
    "glossary.HFU": (
        "FLOPs that the hardware did, recomputation included / time / peak",
        "硬件算力利用率：硬件实际所做的 FLOPs（含重计算）/ 时间 / 峰值",
    ),
    "glossary.GiB": (
        "2^30 bytes; rates are decimal (1 TFLOP/s = 10^12 FLOP/s)",
        "2^30 字节；速率用十进制（1 TFLOP/s = 10^12 FLOP/s）",
    ),
}
