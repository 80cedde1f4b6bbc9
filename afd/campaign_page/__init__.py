"""Campaign page: one HTML file beside the films of every round, made from the store alone.

    runs/<name>/index.html        the page; opens from its file, asks no network
    runs/<name>/page/r003-*.mp4   base, student and teacher side by side, a film a prompt and round
    runs/<name>/page/stamp.js     when the page was written; a running page reloads on a new one
    runs/<name>/page/request.json the request that it was made from

The page is no artifact: it shows what the store has of a campaign at this moment, and is written
anew after every round. Numbers, stages and names know nothing of it.
"""
