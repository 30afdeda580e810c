"""How much of the machine others used while an engine ran: the reason not to believe a figure."""

import os
import resource
import time

# Fields of the first line of /proc/stat: user nice system idle iowait irq softirq steal.
BUSY, STEAL = (0, 1, 2, 5, 6), 7


def processors():
    """Jiffies all processors spent: (busy, stolen, all)."""
    with open("/proc/stat", encoding="ascii") as stat:
        fields = [int(field) for field in stat.readline().split()[1:9]]
    return sum(fields[i] for i in BUSY), fields[STEAL], sum(fields)


def children_seconds():
    """Processor time of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Watch:
    """From its making to `disturbance`."""

    def __init__(self):
        self.start, self.children, self.jiffies = time.monotonic(), children_seconds(), processors()

    def disturbance(self):
        """Seconds, and which shares of all processors went to other processes and to the hypervisor."""
        busy, stolen, total = (now - then for now, then in zip(processors(), self.jiffies))
        second = os.sysconf("SC_CLK_TCK")
        others = max(0.0, busy / second - (children_seconds() - self.children))
        return {
            "seconds": time.monotonic() - self.start,
            "others": others * second / max(total, 1),
            "stolen": stolen / max(total, 1),
        }


def wait(limit, share=0.05, window=2.0):
    """Waits at most `limit` seconds until others left the machine alone for `window` seconds."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        watch = Watch()
        time.sleep(window)
        if watch.disturbance()["others"] < share:
            return


def processor_name():
    """As /proc/cpuinfo has it."""
    with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
        names = (line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name"))
        return next(names, "unknown processor")
