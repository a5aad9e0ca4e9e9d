package corpus

// person is a named character. Stories pair a girl with a boy, so that a pronoun never has two readings.
type person struct{ name, he, him, his string }

// animal is one kind of animal and the facts that hold for it everywhere in the corpus.
type animal struct {
	name, plural string
	food         string // what it eats
	home         string // where it lives
	noise        string // third person verb; "" when it is silent
	can, cannot  string // one skill that it has, one that it lacks
	baby         string // what its young are called; "" when there is no such word
	legs         int
	size         int // rank for "bigger than"
	coats        []string
}

// place has one preposition, so that the same place is always named the same way.
type place struct{ prep, noun string }

// food is something that people eat; some is the phrase with its article or quantity.
type food struct{ some, noun, taste string }

// weather is an adjective, what is seen and what follows from it, what people put on, and its season.
type weather struct{ adj, sign, effect, wear, season string }

// trade is a job, what it makes or does, and where.
type trade struct{ who, does, where, tool string }

// verb is a way of seeing something: past and base form.
type verb struct{ past, base string }

// pair is a fact with two sides: opposites, things and their colours, tools and their uses.
type pair struct{ a, b string }

var girls = []string{"Mia", "Anna", "Lily", "Nora", "Ella", "Rosa", "Ivy", "Clara"}

var boys = []string{"Tom", "Ben", "Max", "Sam", "Leo", "Finn", "Hugo", "Jack"}

var earth = []string{"brown", "grey", "white", "black"}

var animals = []animal{
	{"fox", "foxes", "berries", "in the forest", "barks", "run fast", "fly", "cub", 4, 6, []string{"red", "brown", "grey", "white"}},
	{"bear", "bears", "honey", "in a cave", "growls", "climb trees", "fly", "cub", 4, 10, []string{"brown", "black", "white"}},
	{"rabbit", "rabbits", "carrots", "under the hill", "", "hop", "climb trees", "", 4, 4, earth},
	{"cat", "cats", "fish", "in the house", "purrs", "climb trees", "fly", "kitten", 4, 5, earth},
	{"dog", "dogs", "meat", "in the yard", "barks", "run fast", "fly", "puppy", 4, 6, earth},
	{"horse", "horses", "hay", "in the stable", "neighs", "run fast", "climb trees", "foal", 4, 9, earth},
	{"cow", "cows", "grass", "on the farm", "moos", "give milk", "fly", "calf", 4, 9, []string{"brown", "white", "black"}},
	{"hen", "hens", "corn", "in the barn", "clucks", "lay eggs", "swim", "chick", 2, 4, []string{"red", "brown", "white", "black"}},
	{"duck", "ducks", "bread", "on the pond", "quacks", "swim", "climb trees", "duckling", 2, 4, []string{"white", "brown", "green"}},
	{"frog", "frogs", "flies", "by the pond", "croaks", "hop", "fly", "", 4, 2, []string{"green", "brown", "yellow"}},
	{"owl", "owls", "mice", "in an old tree", "hoots", "see at night", "swim", "", 2, 4, []string{"brown", "grey", "white"}},
	{"mouse", "mice", "cheese", "in a little hole", "squeaks", "hide in a shoe", "fly", "", 4, 2, earth},
	{"sheep", "sheep", "grass", "on the hill", "bleats", "give wool", "climb trees", "lamb", 4, 7, []string{"white", "black", "grey"}},
	{"goat", "goats", "leaves", "on the farm", "bleats", "climb rocks", "fly", "kid", 4, 7, earth},
	{"squirrel", "squirrels", "nuts", "in an old tree", "", "climb trees", "swim", "", 4, 3, []string{"red", "brown", "grey"}},
	{"bee", "bees", "honey", "in the garden", "buzzes", "fly", "swim", "", 6, 1, []string{"yellow", "black"}},
	{"bird", "birds", "seeds", "in a nest", "sings", "fly", "give milk", "chick", 2, 3, []string{"blue", "red", "yellow", "brown"}},
	{"donkey", "donkeys", "hay", "in the stable", "brays", "carry a heavy bag", "fly", "foal", 4, 8, earth},
}

var places = []place{
	{"near", "pond"}, {"by", "river"}, {"on", "hill"}, {"in", "barn"}, {"in", "garden"}, {"in", "forest"},
	{"at", "school"}, {"at", "market"}, {"under", "bridge"}, {"at", "mill"}, {"near", "lake"}, {"on", "farm"},
	{"by", "well"}, {"at", "gate"}, {"on", "beach"}, {"behind", "tower"}, {"at", "station"}, {"in", "park"},
}

var colours = []string{"red", "blue", "green", "yellow", "white", "black", "brown", "grey", "orange", "pink", "purple"}

var things = []string{
	"ball", "kite", "hat", "cup", "book", "bag", "box", "coat", "boat", "lamp", "drum", "key", "shoe", "spoon", "basket", "bell",
	"scarf", "umbrella", "chair", "blanket", "bottle", "ring", "wagon", "apron",
}

var foods = []food{
	{"an apple", "apple", "sweet"}, {"some bread", "bread", "fresh"}, {"a bowl of soup", "soup", "hot"}, {"a cake", "cake", "sweet"},
	{"some cheese", "cheese", "good"}, {"an egg", "egg", "warm"}, {"a pear", "pear", "sweet"}, {"some rice", "rice", "warm"},
	{"a lemon", "lemon", "sour"}, {"an orange", "orange", "sweet"}, {"a pie", "pie", "hot"}, {"some jam", "jam", "sweet"},
	{"a plum", "plum", "sweet"}, {"some ice", "ice", "cold"},
}

// countables are nouns for counting: a holds the singular, b the plural.
var countables = []pair{
	{"apple", "apples"}, {"egg", "eggs"}, {"pear", "pears"}, {"nut", "nuts"}, {"coin", "coins"}, {"flower", "flowers"},
	{"shell", "shells"}, {"stone", "stones"}, {"button", "buttons"}, {"carrot", "carrots"}, {"leaf", "leaves"}, {"star", "stars"},
}

var weathers = []weather{
	{"sunny", "the sun was bright", "the grass was warm and dry", "hat", "spring"},
	{"rainy", "rain fell from the dark clouds", "the road was wet", "coat", "autumn"},
	{"windy", "the wind was strong", "the leaves flew through the air", "scarf", "autumn"},
	{"snowy", "snow fell all day", "the roofs were white", "scarf", "winter"},
	{"foggy", "there was fog on the fields", "nobody could see far", "coat", "autumn"},
	{"cold", "there was ice on the water", "everyone stayed near the fire", "coat", "winter"},
	{"hot", "the sun burned in the sky", "everyone looked for shade", "hat", "summer"},
	{"cloudy", "the clouds were low and grey", "it was dark early", "coat", "spring"},
}

var trades = []trade{
	{"baker", "makes bread", "at the market", "an oven"}, {"farmer", "grows corn", "on the farm", "a wagon"},
	{"miller", "makes flour", "at the mill", "a big wheel"}, {"teacher", "teaches children", "at school", "a book"},
	{"painter", "paints pictures", "in the tower", "a brush"}, {"fisher", "catches fish", "by the river", "a net"},
	{"tailor", "makes coats", "in the village", "a needle"}, {"shepherd", "looks after the sheep", "on the hill", "a stick"},
	{"gardener", "grows flowers", "in the garden", "a spade"}, {"smith", "makes bells", "near the bridge", "a hammer"},
}

var verbs = []verb{{"saw", "see"}, {"found", "find"}, {"noticed", "notice"}, {"spotted", "spot"}}

var opposites = []pair{
	{"hot", "cold"}, {"big", "small"}, {"long", "short"}, {"old", "young"}, {"day", "night"}, {"up", "down"}, {"wet", "dry"},
	{"fast", "slow"}, {"happy", "sad"}, {"open", "closed"}, {"light", "dark"}, {"hard", "soft"}, {"full", "empty"},
	{"early", "late"}, {"near", "far"}, {"loud", "quiet"}, {"sweet", "sour"}, {"strong", "weak"}, {"clean", "dirty"},
}

// thingColours holds colours that never change: a is a subject with its verb's number, singular throughout.
var thingColours = []pair{
	{"the sky", "blue"}, {"grass", "green"}, {"snow", "white"}, {"the sun", "yellow"}, {"coal", "black"}, {"milk", "white"},
	{"a lemon", "yellow"}, {"a carrot", "orange"}, {"a plum", "purple"}, {"a strawberry", "red"}, {"a leaf", "green"},
	{"the night", "black"}, {"a pig", "pink"}, {"the sea", "blue"}, {"a nut", "brown"}, {"smoke", "grey"}, {"butter", "yellow"},
}

// uses pairs a thing with what people do with it.
var uses = []pair{
	{"a spoon", "eat soup"}, {"a key", "open a door"}, {"a lamp", "make light"}, {"an umbrella", "stay dry"}, {"a boat", "cross the river"},
	{"a bed", "sleep"}, {"a book", "read"}, {"a knife", "cut bread"}, {"a bell", "call people"}, {"a basket", "carry fruit"},
	{"a blanket", "keep warm"}, {"a cup", "drink water"}, {"a spade", "dig a hole"}, {"a broom", "clean the floor"}, {"a clock", "tell the time"},
}

var days = []string{"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"}

var seasons = []string{"spring", "summer", "autumn", "winter"}

var dayTimes = []string{"morning", "afternoon", "evening", "day"}

var numbers = []string{"no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"}
