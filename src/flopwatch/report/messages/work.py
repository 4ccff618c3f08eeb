"""Words about how much work a model is, what memory it takes and what fits: count, reconcile, memory, fit."""

from __future__ import annotations

from typing import Final

WORK: Final[dict[str, tuple[str, str]]] = {
    # count
    "count.title": ("{model}: {phase}, {batch} x {seq_len} tokens", "{model}：{phase}，{batch} x {seq_len} 词元"),
    "count.several": ("{phase}, {batch} x {seq_len} tokens", "{phase}，{batch} x {seq_len} 词元"),
    "count.params": ("Parameters", "参数量"),
    "count.active": ("Active per token", "每词元激活参数"),
    "count.forward": ("Forward", "前向"),
    "count.backward": ("Backward", "反向"),
    "count.recompute": ("Recompute", "重计算"),
    "count.in_kernel": ("Again in the kernel", "内核内重算"),
    "count.total": ("Total", "合计"),
    "count.total_model": ("Total (model FLOPs)", "合计（模型 FLOPs）"),
    "count.per_token": ("Per token", "每词元"),
    "count.by_part": ("FLOPs by part", "各部分的浮点运算量"),
    "count.by_part_forward": ("Forward FLOPs by part", "各部分的前向浮点运算量"),
    "count.by_module": ("FLOPs by module", "各模块的浮点运算量"),
    "count.by_operator": ("FLOPs by operator", "各算子的浮点运算量"),
    "count.convention": ("Convention", "统计约定"),
    "count.convention_value": (
        "{convention}; one multiply-add is 2 FLOPs",
        "{convention}；一次乘加计为 2 FLOPs",
    ),
    "count.convention_titled": (
        "{convention}: {title}, {formula} a token; one multiply-add is 2 FLOPs",
        "{convention}：{title}，每词元 {formula}；一次乘加计为 2 FLOPs",
    ),
    "count.source": ("Source", "来源"),
    "count.uncounted": ("Not counted", "未统计"),
    "count.uncounted_op": ("{op} x {calls:,}", "{op} x {calls:,}"),
    "count.uncounted_matmul": (
        "{op} x {calls:,} (its inputs look like a matmul)",
        "{op} x {calls:,}（从输入看像矩阵乘法）",
    ),
    "count.conventions": (
        "{model}: {phase}, {batch} x {seq_len} tokens, under each convention",
        "{model}：{phase}，{batch} x {seq_len} 词元，按各种约定统计",
    ),
    "count.spread": (
        "from {least} to {most} the same step grows {times}-fold",
        "同样的一步，{most} 的统计结果是 {least} 的 {times} 倍",
    ),
    "count.more": ("and {n:,} more, in the record (--json)", "另有 {n:,} 行，见记录（--json）"),
    # reconcile
    "reconcile.title": ("Closed form against trace", "闭式公式与追踪对照"),
    "reconcile.closed_form": ("closed form", "闭式公式"),
    "reconcile.traced": ("trace", "追踪"),
    "reconcile.difference": ("difference", "差额"),
    "reconcile.exact": ("Closed form and trace agree to the integer.", "闭式公式与追踪的结果完全一致，一位不差。"),
    "reconcile.off": (
        "Closed form and trace differ, by {largest} at most.",
        "闭式公式与追踪不一致，最多相差 {largest}。",
    ),
    "reconcile.explained": ("explained by {text}", "原因：{text}"),
    "reconcile.unexplained": (
        "No difference that flopwatch knows by name explains it.",
        "flopwatch 已知的任何差异都无法解释它。",
    ),
    # memory
    "memory.title": ("{model}: peak memory{what}", "{model}：峰值内存{what}"),
    "memory.peak": ("Peak", "峰值"),
    "memory.peak_value": ("{peak} (predicted, {source})", "{peak}（预测，{source}）"),
    "memory.by_part": ("Memory at the peak by part", "峰值时刻各部分的内存"),
    "memory.assumptions": ("Assumes", "假定"),
    "memory.at": ("When", "时刻"),
    "memory.at_value": ("{phase}, in {op} of {module}", "{phase}，在 {module} 的 {op} 中"),
    "memory.at_root": ("the model itself", "模型本身"),
    "memory.cache": ("KV cache", "KV 缓存"),
    "memory.cache_value": ("{cache}, within activations", "{cache}，已计入激活"),
    "memory.device": ("On {name}", "在 {name} 上"),
    "memory.fits": ("fits, {margin} to spare of {allowed}", "放得下，{allowed} 中还余 {margin}"),
    "memory.does_not_fit": ("does not fit: {margin} over {allowed}", "放不下：比 {allowed} 多出 {margin}"),
    "memory.largest": ("Largest tensors at the peak", "峰值时刻最大的张量"),
    # fit
    "fit.title_samples": ("{model}: {phase}, {dtype}", "{model}：{phase}，{dtype}"),
    "fit.title": (
        "{model}: {phase}, {seq_len} tokens, {dtype}",
        "{model}：{phase}，{seq_len} 词元，{dtype}",
    ),
    "fit.batch": ("Largest batch", "最大批量"),
    "fit.batch_none": ("none: not even 1 fits", "无：批量 1 也放不下"),
    "fit.batch_predicted": (
        "about {batch} (predicted only: nothing was run)",
        "约 {batch}（仅为预测：没有运行任何东西）",
    ),
    "fit.batch_needs": ("none: batch 1 needs {needs} (predicted)", "无：批量 1 就需要 {needs}（预测）"),
    "fit.capped": (
        "at least {batch} (no larger one was tried: {cap})",
        "至少 {batch}（没有尝试更大的批量：{cap}）",
    ),
    "fit.capped_max": ("--max", "--max"),
    "fit.limit": ("Limit", "上限"),
    "fit.limit_value": ("{limit} ({source})", "{limit}（{source}）"),
    "fit.predicted": ("Predicted", "预测"),
    "fit.predicted_value": ("batch {batch}, peak {peak}", "批量 {batch}，峰值 {peak}"),
    "fit.predicted_none": (
        "nothing fits: the smallest batch needs {peak}",
        "都放不下：最小的批量需要 {peak}",
    ),
    "fit.predicted_other": (
        "batch {batch}; peak {peak} at batch {found}",
        "批量 {batch}；批量 {found} 时峰值 {peak}",
    ),
    "fit.repeated": ("Repeated", "重复运行"),
    "fit.repeated_value": (
        "batch {batch}: the step again in one process, whose allocator's cache is fragmented by then",
        "批量 {batch}：在同一进程中再跑一步，此时分配器的缓存已经碎片化",
    ),
    "fit.plan": ("Global batch", "全局批量"),
    "fit.plan_ran": (
        "{n} = {steps} x batch {micro} (--accumulate {steps}); {micro} ran with accumulation",
        "{n} = {steps} x 批量 {micro}（--accumulate {steps}）；批量 {micro} 带梯度累积跑通",
    ),
    "fit.plan_predicted": (
        "{n} = {steps} x batch {micro} (--accumulate {steps}), predicted",
        "{n} = {steps} x 批量 {micro}（--accumulate {steps}），预测",
    ),
    "fit.plan_none": (
        "no batch that divides {n} fits with accumulation: its gradients stay during the next forward",
        "能整除 {n} 的批量在梯度累积时都放不下：下一次前向期间梯度仍占着内存",
    ),
    "fit.measured": ("Measured", "实测"),
    "fit.measured_value": (
        "peak {peak} at batch {batch}, {share} of the limit",
        "批量 {batch} 时峰值 {peak}，为上限的 {share}",
    ),
    "fit.error": (
        "{peak} at batch {batch}, {share} of the limit; the prediction is {error} {side}",
        "批量 {batch} 时 {peak}，为上限的 {share}；预测值{side} {error}",
    ),
    "fit.too_high": ("too high", "偏高"),
    "fit.too_low": ("too low", "偏低"),
    "fit.proof": ("Proof", "证明"),
    "fit.proof_ran": ("batch {batch} ran; batch {next} {outcome}", "批量 {batch} 跑通；批量 {next} {outcome}"),
    "fit.proof_next": ("batch {next} {outcome}", "批量 {next} {outcome}"),
    "fit.proof_proved": (
        "batch {next} {outcome} (follows from measured peaks; not run)",
        "批量 {next} {outcome}（由实测峰值推出，未运行）",
    ),
    "fit.proof_short": ("{next} {outcome}", "{next} {outcome}"),
    "fit.proof_predicted": ("{proof} ({batch} predicted)", "{proof}（预测 {batch}）"),
    "fit.proof_untested": ("batch {next} was not tried", "批量 {next} 未尝试"),
    "fit.unverified": ("predicted only: nothing was run", "仅为预测：没有运行任何东西"),
    "fit.probes": ("Probes", "各次尝试"),
    "fit.no_probes": ("nothing was run", "没有运行任何东西"),
}
