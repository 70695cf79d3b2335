"""codecarbon, as its own documentation uses it: a tracker per window with default settings; its GPU part."""

from __future__ import annotations

from codecarbon import OfflineEmissionsTracker
from windows import measure

JOULES_PER_KWH = 3.6e6


def begin() -> OfflineEmissionsTracker:
    # Several trackers run side by side here, and none of them is to write files.
    tracker = OfflineEmissionsTracker(
        country_iso_code="FRA", save_to_file=False, log_level="error", allow_multiple_runs=True
    )
    tracker.start()
    return tracker


def end(tracker: OfflineEmissionsTracker) -> float:
    tracker.stop()
    return float(tracker.final_emissions_data.gpu_energy) * JOULES_PER_KWH


# The first start looks for the hardware for more than a second, which is not what is compared.
end(begin())
measure(begin, end)
