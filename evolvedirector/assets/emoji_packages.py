"""The packages of the emoji vocabulary: captions and five art styles, pinned by digest."""

from __future__ import annotations

from evolvedirector.assets.npm_package import NpmPackage

_ICONIFY_MEMBERS = r"(icons|chars|info|package)\.json|README\.md|LICENSE"

EMOJI_PACKAGES: tuple[NpmPackage, ...] = (
    NpmPackage(
        role="captions",
        name="emojibase-data",
        version="17.0.0",
        sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
        size_bytes=6_711_091,
        license="MIT",
        author="Miles Johnson",
        source_url="https://github.com/milesj/emojibase",
        license_url="https://github.com/milesj/emojibase/blob/master/LICENSE",
        members=r"en/data\.json|meta/groups\.json|package\.json|LICENSE",
    ),
    NpmPackage(
        role="noto",
        name="@iconify-json/noto",
        version="1.2.9",
        sha256="3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        size_bytes=3_102_958,
        license="Apache-2.0",
        author="Google Inc",
        source_url="https://github.com/googlefonts/noto-emoji",
        license_url="https://github.com/googlefonts/noto-emoji/blob/main/svg/LICENSE",
        members=_ICONIFY_MEMBERS,
    ),
    NpmPackage(
        role="fluent_3d",
        name="@lobehub/fluent-emoji-3d",
        version="1.1.0",
        sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        size_bytes=15_792_027,
        license="MIT",
        author="Microsoft Corporation; packaged by LobeHub",
        source_url="https://github.com/microsoft/fluentui-emoji",
        license_url="https://github.com/microsoft/fluentui-emoji/blob/main/LICENSE",
        members=r"assets/[0-9a-f-]+\.webp|package\.json|README\.md|LICENSE",
    ),
    NpmPackage(
        role="fluent_flat",
        name="@iconify-json/fluent-emoji-flat",
        version="1.2.6",
        sha256="7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        size_bytes=1_172_438,
        license="MIT",
        author="Microsoft Corporation",
        source_url="https://github.com/microsoft/fluentui-emoji",
        license_url="https://github.com/microsoft/fluentui-emoji/blob/main/LICENSE",
        members=_ICONIFY_MEMBERS,
    ),
    NpmPackage(
        role="twemoji",
        name="@iconify-json/twemoji",
        version="1.2.5",
        sha256="19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        size_bytes=1_555_888,
        license="CC-BY-4.0",
        author="Twitter and contributors",
        source_url="https://github.com/jdecked/twemoji",
        license_url="https://creativecommons.org/licenses/by/4.0/",
        members=_ICONIFY_MEMBERS,
    ),
    NpmPackage(
        role="openmoji",
        name="@iconify-json/openmoji",
        version="1.2.29",
        sha256="03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
        size_bytes=1_264_633,
        license="CC-BY-SA-4.0",
        author="OpenMoji: HfG Schwaebisch Gmuend and contributors",
        source_url="https://github.com/hfg-gmuend/openmoji",
        license_url="https://creativecommons.org/licenses/by-sa/4.0/",
        members=_ICONIFY_MEMBERS,
    ),
)
