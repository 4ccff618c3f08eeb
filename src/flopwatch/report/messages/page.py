"""Words of a whole report and of its HTML page: sections, verdicts, charts."""

from __future__ import annotations

from typing import Final

PAGE: Final[dict[str, tuple[str, str]]] = {
    # report
    "report.title": ("flopwatch report", "flopwatch 报告"),
    "report.work": ("How much work", "有多少计算量"),
    "report.fits": ("What fits", "放得下多大的批量"),
    "report.speed": ("How fast here", "在这里跑得多快"),
    "report.skipped": ("Not run", "未运行"),
    "report.verdict": ("In words", "结论"),
    "report.probes": ("Every try of the searches", "搜索中的每次尝试"),
    "report.limit": (
        "{seq_len} tokens a sequence, {dtype}; limit {limit} ({source})",
        "每序列 {seq_len} 词元，{dtype}；上限 {limit}（{source}）",
    ),
    "report.step": (
        "{dtype} on {device}; the step is the median of at least {n} samples",
        "{dtype}，{device}；每步用时为至少 {n} 个样本的中位数",
    ),
    "report.mfu": ("MFU: {text}", "MFU：{text}"),
    "report.no_fits": ("No search was made.", "没有进行搜索。"),
    "report.no_benches": ("Nothing was timed.", "没有计时。"),
    "verdict.work": ("{params} parameters", "参数量 {params}"),
    "verdict.step": ("{flops} a step of {batch} x {seq_len} tokens", "每步 {batch} x {seq_len} 词元需 {flops}"),
    "verdict.fit": (
        "batch {batch} fits in {limit}, {next} {outcome}",
        "{limit} 内放得下批量 {batch}，批量 {next} {outcome}",
    ),
    "verdict.fit_capped": (
        "batch {batch} fits in {limit}, no larger one was tried",
        "{limit} 内放得下批量 {batch}，没有尝试更大的",
    ),
    "verdict.fit_unverified": (
        "batch {batch} is predicted to fit in {limit}",
        "预测 {limit} 内放得下批量 {batch}",
    ),
    "verdict.fit_none": ("not even batch 1 fits in {limit}", "{limit} 内批量 1 也放不下"),
    "verdict.fit_needs": (
        "not even batch 1 fits in {limit}, it needs about {needs} (predicted)",
        "{limit} 内批量 1 也放不下，它约需 {needs}（预测）",
    ),
    "verdict.speed": (
        "{tokens} tokens/s at batch {batch}, MFU {mfu}",
        "批量 {batch} 时 {tokens} 词元/秒，MFU 为 {mfu}",
    ),
    "verdict.not_run": ("not run", "未运行"),
    # the page
    "page.language": ("Language", "语言"),
    "page.language_name": ("English", "中文"),
    "page.title": ("flopwatch {kind}", "flopwatch {kind}"),
    "page.title_report": ("flopwatch report", "flopwatch 报告"),
    "page.subtitle": ("{created}, {machine}", "{created}，{machine}"),
    "page.command": ("The command that made this page", "生成本页的命令"),
    "page.warnings": ("Warnings", "警告"),
    "page.contents": ("Contents", "目录"),
    "page.skip": ("Skip to the content", "跳到正文"),
    "page.table": ("Table", "表格"),
    "page.save": ("Save the record (JSON)", "保存记录（JSON）"),
    "page.made_by": ("Every figure of this page is in the record.", "本页的每个数字都在记录里。"),
    "page.conventions": ("How it was counted", "统计方式"),
    "page.environment": ("Where it ran", "运行环境"),
    "page.method": ("record schema, method", "记录格式、测量方法版本"),
    "page.all_counted": (
        "No operator lacked a formula. Norms, softmax and other elementwise work are no matmuls.",
        "所有算子都有公式。归一化、softmax 等逐元素运算不是矩阵乘法。",
    ),
    "page.each_bench": ("Each measurement in full", "每次测量的全部结果"),
    "page.parts_of": ("FLOPs of {model} by part", "{model} 各部分的浮点运算量"),
    "page.probes_of": ("The search for {model}, {phase}", "{model} 的搜索过程（{phase}）"),
    "page.kind_count": ("How much work", "有多少计算量"),
    "page.kind_memory": ("Memory", "内存"),
    "page.kind_fit": ("What fits", "放得下多大的批量"),
    "page.kind_bench": ("How fast here", "在这里跑得多快"),
    "page.kind_peak": ("Measured peak", "实测峰值"),
    "page.kind_devices": ("Devices", "设备"),
    "page.kind_mfu": ("MFU", "MFU"),
    "page.kind_doctor": ("This machine", "本机情况"),
    "page.kind_roofline": ("Roofline", "屋顶线模型"),
    "page.kind_compare": ("What changed", "有何变化"),
}
