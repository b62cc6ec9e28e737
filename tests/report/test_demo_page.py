import base64
import re
from pathlib import Path

from PIL import Image

from clip2clap.report.demo import is_demo_page, write_demo_page


def test_the_demo_page_holds_all_it_shows_and_escapes_what_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "sound.wav").write_bytes(b"RIFF")
    (tmp_path / "spectrogram.png").write_bytes(b"PNG")
    files = {"page": "index.html", "audio": "sound.wav", "spectrogram": "spectrogram.png"}
    write_demo_page(
        {name: tmp_path / file for name, file in files.items()},
        image=Image.new("RGB", (3000, 1500), "teal"),
        title='a <b>"quoted"</b> name.jpg',
        seconds=1.0,
        sampling_rate=16_000,
        nearest=[("cat", 0.81), ("dog", 0.4)],
        seed=7,
    )
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    sources = re.findall(r'src="([^"]*)"', page)
    assert [source.split(";")[0] for source in sources] == [
        "data:image/jpeg",
        "data:audio/wav",
        "data:image/png",
    ]
    contents = [base64.b64decode(source.split(",")[1]) for source in sources]
    assert contents[1] == (tmp_path / "sound.wav").read_bytes()
    assert contents[2] == (tmp_path / "spectrogram.png").read_bytes()
    assert not re.search(r"https?://", page)
    assert "a &lt;b&gt;&quot;quoted&quot;&lt;/b&gt; name.jpg" in page
    assert 'width="1200" height="600"' in page
    assert page.index("cat") < page.index("0.81") < page.index("dog")
    assert is_demo_page(tmp_path / "index.html")
    assert not is_demo_page(tmp_path / "sound.wav")
