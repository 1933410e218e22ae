"""Image-text pairs and a text corpus from the simulator's true state; see docs/language-data.md.

- `config`, `make`, `service`, `scenes`: what is asked for, and the resumable parallel work.
- `randomise`, `looks`, `parts`: a randomised scene.
- `view`, `observe`, `holdings`, `facts`: its pictures with segmentation, and what is true in them.
- `names`, `colours`: what things and colours are called.
- `pairs`, `questions`, `relations`, `instructed`, `describe`: language about what is true, without simulator.
- `text`: instructions, paraphrases, plans.
- `balance`, `write`, `shards`, `overview`: which pairs are kept, the files, and a picture to look at.
- `reader`: `CaptionDataset`, for training.
"""
