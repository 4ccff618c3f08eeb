"""Words of the charts: titles, captions, axes, what is said on hover."""

from __future__ import annotations

from typing import Final

CHARTS: Final[dict[str, tuple[str, str]]] = {
    "chart.choose": ("Shown: {title}", "显示：{title}"),
    "chart.step": ("{model}, {phase}", "{model}，{phase}"),
    "chart.at_batch": ("{step}, batch {batch}", "{step}，批量 {batch}"),
    "chart.batch_n": ("batch {batch}", "批量 {batch}"),
    "chart.of_kind": ("{phase}, {kind}", "{phase}，{kind}"),
    "chart.share_of": ("{share} of {peak}", "{share}（分母：{peak}）"),
    # axes
    "chart.share": ("share of the step's FLOPs", "占一步浮点运算量的比例"),
    "chart.batch": ("batch (log scale)", "批量（对数坐标）"),
    "chart.peak": ("peak memory, GiB", "峰值内存（GiB）"),
    "chart.gib": ("GiB", "GiB"),
    "chart.tokens": ("tokens/s", "词元/秒"),
    "chart.mfu": ("MFU", "MFU"),
    "chart.flops": ("FLOPs", "浮点运算量（FLOPs）"),
    "chart.intensity": ("arithmetic intensity, FLOPs/byte", "算术强度（FLOPs/字节）"),
    "chart.rate": ("FLOP/s", "算力（FLOP/s）"),
    "chart.event": ("allocations and releases, in order", "分配与释放的先后次序"),
    "chart.milliseconds": ("ms", "毫秒"),
    # work
    "chart.work": ("FLOPs by kind of work", "各类计算的浮点运算量"),
    "chart.work_caption": (
        "{phase}: share of each model's FLOPs; the amounts are in the tables below.",
        "{phase}：在每个模型的浮点运算量中所占的比例；具体数量见下面的表格。",
    ),
    "group.attention_weights": ("attention weights", "注意力权重"),
    "group.attention_scores": ("attention scores", "注意力得分"),
    "group.ffn": ("feed-forward", "前馈网络"),
    "group.experts": ("experts", "专家"),
    "group.head": ("output head", "输出头"),
    "group.other": ("other", "其他"),
    "chart.modules": ("FLOPs by module", "各模块的浮点运算量"),
    "chart.modules_caption": (
        "Each block is as tall as its share of the model's FLOPs, what it holds stands to its right.",
        "每个方块的高度是它在模型浮点运算量中的占比，右侧是它所包含的部分。",
    ),
    # memory
    "chart.memory": ("Memory at the peak, predicted and measured", "峰值内存：预测与实测"),
    "chart.memory_caption": (
        "Above, the predicted parts of each peak; below, what was measured, and how far off the prediction is.",
        "上方是预测的峰值各部分，下方是实测值，以及预测的误差。",
    ),
    "chart.memory_predicted": ("Memory at the peak by part", "峰值内存的各部分"),
    "chart.memory_predicted_caption": ("Predicted; nothing was measured.", "预测值，没有实测。"),
    "chart.measured": ("measured", "实测"),
    "chart.error": ("prediction {error}, of {what}", "预测 {error}（{what}）"),
    "chart.of_all": ("all that was taken", "占用的全部内存"),
    "chart.of_tensors": ("the tensors", "仅张量"),
    "chart.timeline": ("Live memory through the step", "一步之中的在用内存"),
    "chart.timeline_caption": (
        "Predicted bytes of all tensors alive, from the first allocation of the step to its last release.",
        "预测的全部存活张量的字节数，从一步的第一次分配到最后一次释放。",
    ),
    # what fits
    "chart.probes": ("Tries of the searches", "搜索中的尝试"),
    "chart.probes_caption": (
        "Measured peak memory against batch; a cross at the limit is a batch that did not run.",
        "实测峰值内存与批量的关系；上限处的叉号是没有跑通的批量。",
    ),
    "chart.limit": ("limit {limit}", "上限 {limit}"),
    # speed
    "chart.speed": ("Tokens per second", "每秒词元数"),
    "chart.speed_caption": (
        "Median; the whiskers are from the 10th and 90th percentile of the step time.",
        "中位数；误差线取自每步用时的第 10 和第 90 百分位数。",
    ),
    "chart.utilization": ("MFU by denominator", "各分母下的 MFU"),
    "chart.utilization_caption": (
        "Share of each known peak; the denominators are named under the table.",
        "占每个已知峰值的比例；各分母见表格下方。",
    ),
    "chart.batch_curve": ("Throughput, MFU and memory against batch", "吞吐量、MFU 和内存随批量的变化"),
    "chart.batch_curve_caption": (
        "Every batch that was timed; memory also where a search only tried it. Whiskers: 95 % interval of the median.",
        "所有计时过的批量；内存还包括搜索中只试跑过的批量。误差线：中位数的 95 % 区间。",
    ),
    "chart.mfu_kinds": ("MFU ({kinds})", "MFU（{kinds}）"),
    "chart.choices": ("What one change buys", "改变一项的效果"),
    "chart.choices_caption": (
        "Tokens/s against the base, with the interval; grey is within the noise.",
        "词元/秒相对基准的变化及其区间；灰色表示在噪声之内。",
    ),
    "chart.choice_change": ("change of tokens/s", "词元/秒的变化"),
    "chart.gap": ("Where the step's time goes", "一步的时间花在哪里"),
    "chart.gap_caption": (
        "What each part of the step took, and what the roofline gives it.",
        "一步中每个部分的用时，以及屋顶线模型给出的用时。",
    ),
    # roofline
    "chart.roofline": ("Roofline", "屋顶线模型"),
    "chart.roofline_caption": (
        "Operators at their arithmetic intensity, at the rate that the first roof lets them have; larger ones take more"
        " of the time. Operators without matmul FLOPs are not drawn. A star is the whole step as it was measured.",
        "每个算子位于它的算术强度和第一条屋顶线所允许的算力处，点越大占用的时间越多。没有矩阵乘法运算的算子不画出。"
        "星号是实测的整个一步。",
    ),
    "chart.roof": ("{kind}: {peak}, {bandwidth}", "{kind}：{peak}，{bandwidth}"),
    "chart.bound_compute": ("bound by compute", "受限于算力"),
    "chart.bound_memory": ("bound by memory", "受限于内存带宽"),
    "chart.step_measured": ("the whole step, measured", "整个一步（实测）"),
    # conventions
    "chart.conventions": ("The same step under every convention", "同一步在各种统计约定下"),
    "chart.conventions_caption": (
        "Model FLOPs of one measured step as each convention counts them, and the MFU that follows.",
        "一个实测步的模型浮点运算量在各约定下的数值，以及由此得到的 MFU。",
    ),
    "chart.conventions_counted": (
        "Model FLOPs of one step as each convention counts them.",
        "一步的模型浮点运算量在各约定下的数值。",
    ),
    "chart.conventions_runs": ("MFU of the same run under each convention.", "同一次运行在各约定下的 MFU。"),
    "chart.mfu_of": ("MFU {percent} ({kind})", "MFU {percent}（{kind}）"),
    # compare
    "chart.changes": ("What changed", "变化"),
    "chart.changes_caption": (
        "Change of each figure that is not equal, with the interval; grey is within the noise.",
        "每个不相等的数值的变化及其区间；灰色表示在噪声之内。",
    ),
    "chart.change": ("change", "变化"),
    # what stands beside a report's measurements
    "report.roofline": ("How fast it could be", "最快能有多快"),
    "report.roof": (
        "first roof: {device}; {peak}; bandwidth {bandwidth}",
        "第一条屋顶线：{device}；{peak}；带宽 {bandwidth}",
    ),
    "report.conventions_note": (
        "MFU is FLOPs / {step} (the median step) / peak, whatever is counted.",
        "无论如何统计，MFU 都是 FLOPs / {step}（一步的中位数）/ 峰值。",
    ),
    "page.conventions_of": ("{step}, under every convention", "{step}，在各种约定下"),
    "col.highest_mfu": ("highest MFU", "最高 MFU"),
    "col.compute_bound": ("bound by compute", "受限于算力"),
    "col.hardware_flops": ("hardware FLOPs", "硬件浮点运算量"),
    "col.formula": ("a token", "每词元"),
}
