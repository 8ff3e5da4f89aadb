"""The recipe of pocket, conestool's embedded base model: icons, scenes, autoencoder, text encoder, U-Net, export.

Every stage is a module run as ``python -m training.pocket.<stage> --work FOLDER``; each can be stopped and resumed.
"""
