"""Texts of the demo classes: names, synonyms, captions, and templates around them."""

from collections.abc import Sequence

from clip2clap.training.recipes.demo.imagenet import INNER_NAMES

IMAGE_TEMPLATES = (
    "{}",
    "a photo of a {}",
    "a picture of the {}",
    "a close-up of a {}",
    "a low resolution photo of a {}",
    "there is a {} in this image",
)
AUDIO_TEMPLATES = (
    "the sound of a {}",
    "{}",
    "a recording of a {}",
    "this is the sound of {}",
    "{} in the distance",
    "a {} nearby, outdoors",
)
# Templates of both images and audio.
SENTENCE_TEMPLATES = (
    "{}s",
    "two {}s",
    "many {}s",
    "my {}",
    "I saw a {} yesterday",
    "I can hear a {}",
    "look at that {}",
    "the {} is here",
    "a big {} in front of a house",
    "an old {} on a sunny day",
    "what a nice {}",
    "it looks and sounds like a {}",
)

# Names of each class, the usual one first.
NAMES: dict[str, tuple[str, ...]] = {
    "dog": ("dog", "puppy", "hound", "terrier", "retriever", "poodle", "doggy", "spaniel", "pup"),
    "cat": ("cat", "kitten", "tabby cat", "tomcat", "house cat", "pussycat"),
    "bird": ("bird", "songbird", "goose", "penguin", "sparrow", "robin", "pigeon", "albatross"),
    "frog": ("frog", "bullfrog", "tree frog", "toad"),
    "cow": ("cow", "cattle", "ox", "bull", "calf", "dairy cow"),
    "sheep": ("sheep", "lamb", "ram", "flock of sheep", "bighorn"),
    "pig": ("pig", "hog", "piglet", "boar", "sow"),
    "lion": ("lion", "lioness", "big cat", "king of the beasts"),
    "monkey": ("monkey", "ape", "chimpanzee", "orangutan", "baboon", "gorilla"),
    "insect": ("insect", "bee", "fly", "bug", "beetle", "wasp", "mosquito"),
    "cricket": ("cricket", "grasshopper", "cicada", "locust"),
    "sea": ("sea", "ocean", "seashore", "sea waves", "beach", "coast"),
    "water": ("water", "fountain", "water jug", "stream of water", "pouring water", "tap"),
    "wind": ("wind", "windy mountain", "cliff in the wind", "breeze", "gale", "mountain peak"),
    "rain": ("rain", "umbrella in the rain", "rain shower", "rainstorm", "umbrella"),
    "fire": ("fire", "campfire", "torch", "flames", "candle", "bonfire", "fireplace"),
    "keyboard": ("computer keyboard", "keyboard", "typing keyboard", "keys of a computer"),
    "clock": ("clock", "wall clock", "alarm clock", "watch", "pendulum clock"),
    "train": ("train", "bullet train", "locomotive", "freight train", "railway", "rail car"),
    "engine": ("engine", "car", "truck", "bus", "tractor", "motor", "automobile", "sports car"),
    "siren": ("siren", "police car", "ambulance", "police van", "fire truck siren"),
    "airplane": ("airplane", "plane", "jet", "aircraft", "airliner", "propeller plane"),
    "can": ("can", "tin can", "beer can", "soda bottle", "pop bottle", "soda can", "beer bottle"),
}

# Captions of audio of each class.
AUDIO_CAPTIONS: dict[str, tuple[str, ...]] = {
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

# Other texts of the classes, for evaluation alone: the text encoders are not trained on them.
UNSEEN: dict[str, tuple[str, ...]] = {
    "dog": ("pooch", "a mutt on a leash", "beagles", "somebody walks a labrador", "watchdog"),
    "cat": ("kitty", "a feline on the sofa", "siamese", "two kitties are playing", "persian cat"),
    "bird": ("a blackbird on a branch", "canary", "a parrot", "a flock of seagulls", "ducks"),
    "frog": ("an amphibian by the pond", "tadpole", "toads in the grass", "a croaking frog"),
    "cow": ("a herd of cattle grazing", "heifer", "cows in the meadow", "buffalo"),
    "sheep": ("ewe", "a woolly animal being shorn", "lambs on a hill", "a shepherd's flock"),
    "pig": ("swine", "piggy", "pigs in the mud", "a farm hog grunts"),
    "lion": ("a maned predator of the savanna", "lions resting", "lion cub"),
    "monkey": ("a primate in a tree", "macaque", "monkeys eating bananas", "chimp"),
    "insect": ("bumblebee", "hornet", "insects on a flower", "a swarm of bees"),
    "cricket": ("a cricket in the grass", "chirping crickets", "katydid", "grasshoppers jump"),
    "sea": ("surf", "waves at the shore", "the Atlantic ocean", "tide rolling in"),
    "water": (
        "someone pours a drink",
        "a running faucet",
        "water flows from a jug",
        "a fountain in the park",
    ),
    "wind": ("a windy day", "gusts on a summit", "the wind howls", "storm winds"),
    "rain": ("drizzle", "a rainy street", "downpour", "it is raining"),
    "fire": ("blaze", "burning logs", "a fire in the hearth", "flame"),
    "keyboard": (
        "somebody is typing",
        "laptop keyboard",
        "a mechanical keyboard",
        "typewriter keys",
    ),
    "clock": ("a grandfather clock", "wristwatch", "clocks on the wall", "timepiece"),
    "train": ("steam train", "subway", "trains at the station", "a tram on rails"),
    "engine": ("a taxi in the street", "lorry", "motorcycle engine", "vans and buses"),
    "siren": ("police siren", "sirens in the city", "paramedics arrive", "an emergency vehicle"),
    "airplane": ("a passenger jet", "aeroplane", "airplanes in the sky", "a plane takes off"),
    "can": ("a can of cola", "tins", "opening a beer", "aluminium can"),
}


def image_phrases(name: str) -> list[str]:
    """Return texts that describe an image of a class, but for names with vectors of their own."""
    names = [synonym for synonym in NAMES[name] if synonym not in INNER_NAMES]
    return _fill(names, (*IMAGE_TEMPLATES, *SENTENCE_TEMPLATES))


def audio_phrases(name: str) -> list[str]:
    """Return texts that describe audio of a class."""
    texts = _fill(NAMES[name], (*AUDIO_TEMPLATES, *SENTENCE_TEMPLATES))
    return [*texts, *AUDIO_CAPTIONS[name]]


def _fill(names: Sequence[str], templates: tuple[str, ...]) -> list[str]:
    return [template.format(name) for name in names for template in templates]
