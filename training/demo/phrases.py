"""What people say of the kinds: names, synonyms, and phrases around them."""

PHOTO_PHRASES = (
    "{}",
    "a photo of a {}",
    "a picture of the {}",
    "a close-up of a {}",
    "a low resolution photo of a {}",
    "there is a {} in this image",
)
SOUND_PHRASES = (
    "the sound of a {}",
    "{}",
    "a recording of a {}",
    "this is the sound of {}",
    "{} in the distance",
    "a {} nearby, outdoors",
)

# How a kind is called, first its usual name; and what it does when it sounds.
NAMES: dict[str, tuple[str, ...]] = {
    "dog": ("dog", "puppy", "hound", "terrier", "retriever", "poodle"),
    "cat": ("cat", "kitten", "tabby cat", "tomcat"),
    "bird": ("bird", "songbird", "goose", "penguin", "sparrow"),
    "frog": ("frog", "bullfrog", "tree frog", "toad"),
    "cow": ("cow", "cattle", "ox", "bull"),
    "sheep": ("sheep", "lamb", "ram", "flock of sheep"),
    "pig": ("pig", "hog", "piglet", "boar"),
    "lion": ("lion", "lioness", "big cat"),
    "monkey": ("monkey", "ape", "chimpanzee", "orangutan", "baboon"),
    "insect": ("insect", "bee", "fly", "bug"),
    "cricket": ("cricket", "grasshopper", "cicada"),
    "sea": ("sea", "ocean", "seashore", "sea waves", "beach"),
    "water": ("water", "fountain", "water jug", "stream of water"),
    "wind": ("wind", "windy mountain", "cliff in the wind", "breeze"),
    "rain": ("rain", "umbrella in the rain", "rain shower"),
    "fire": ("fire", "campfire", "torch", "flames", "candle"),
    "keyboard": ("computer keyboard", "keyboard", "typing keyboard"),
    "clock": ("clock", "wall clock", "alarm clock", "watch"),
    "train": ("train", "bullet train", "locomotive", "freight train", "railway"),
    "engine": ("engine", "car", "truck", "bus", "tractor", "motor"),
    "siren": ("siren", "police car", "ambulance", "police van"),
    "airplane": ("airplane", "plane", "jet", "aircraft"),
    "can": ("can", "tin can", "beer can", "soda bottle", "pop bottle"),
}

SOUNDS: dict[str, tuple[str, ...]] = {
    "dog": ("a dog barking", "a dog barks and growls", "woof woof"),
    "cat": ("a cat meowing", "a kitten meows", "a cat purring"),
    "bird": ("birds chirping", "a bird sings", "bird calls and tweets"),
    "frog": ("frogs croaking", "a frog croaks"),
    "cow": ("a cow mooing", "cattle moo"),
    "sheep": ("a sheep bleating", "a lamb bleats"),
    "pig": ("a pig oinking", "a pig grunts and squeals"),
    "lion": ("a lion roaring", "a lion growls"),
    "monkey": ("a monkey screeching", "monkeys howl and chatter"),
    "insect": ("insects buzzing", "a bee buzzes"),
    "cricket": ("crickets chirping at night", "cicadas buzzing"),
    "sea": ("sea waves crashing", "ocean surf on the beach"),
    "water": ("water pouring", "water splashing and trickling"),
    "wind": ("wind blowing", "strong wind howling"),
    "rain": ("rain falling", "heavy rain pattering"),
    "fire": ("fire crackling", "flames crackle and pop"),
    "keyboard": ("typing on a keyboard", "keys clicking"),
    "clock": ("a clock ticking", "tick tock of a clock"),
    "train": ("a train passing", "a train rattles along the tracks", "a train horn blows"),
    "engine": ("an engine idling", "a car engine revving", "a motor humming"),
    "siren": ("a siren wailing", "an emergency vehicle siren sounds"),
    "airplane": ("an airplane flying overhead", "a jet taking off"),
    "can": ("a can opening", "a can hisses and pops open"),
}


def kind_phrases(kind: str) -> list[str]:
    """Return everything that may be said of a kind: what is seen and what is heard."""
    return [*seen_phrases(kind), *heard_phrases(kind)]


def seen_phrases(kind: str) -> list[str]:
    """Return phrases for a photograph of a kind."""
    return [phrase.format(name) for name in NAMES[kind] for phrase in PHOTO_PHRASES]


def heard_phrases(kind: str) -> list[str]:
    """Return phrases for a recording of a kind."""
    named = [phrase.format(name) for name in NAMES[kind] for phrase in SOUND_PHRASES]
    return [*named, *SOUNDS[kind]]
