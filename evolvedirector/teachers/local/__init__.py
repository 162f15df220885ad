"""Teachers that run or lie here: diffusers pipelines, folders of images, WebDataset tars."""
