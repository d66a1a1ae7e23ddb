"""The demo to click: a page in the browser that asks a base and a guarded model the same. Needs the extra `demo`.

make_server(Playground(safety), Audits(base, {"default": adapter})).run()

The page is for whoever sits at this machine: it listens there alone, and may read the folders that they name.
"""

import os

# Read by gradio while it is imported: no usage report, no question for newer versions, no log of runs in the browser.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"
